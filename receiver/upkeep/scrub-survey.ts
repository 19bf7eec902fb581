/**
 * How much a pass of the scrub has to read: objects and stored bytes that a manifest refers to, from the catalog alone.
 */
import type { Manifest } from '../catalog/manifest.js';
import type { ObjectStore } from '../store/store.js';
import { walkObjects } from './scrub-walk.js';

export interface Survey {
  readonly objects: number;
  readonly layerBytes: number;
}

export async function surveyObjects(store: ObjectStore, manifest: Manifest): Promise<Survey> {
  let objects = 0;
  let layerBytes = 0;
  for await (const target of walkObjects(store, manifest, null)) {
    objects++;
    if (target.kind === 'layer') layerBytes += target.layer.sizeBytes;
  }
  return { objects, layerBytes };
}
