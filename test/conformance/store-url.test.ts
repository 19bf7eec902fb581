/**
 * URLs of stores in buckets: what they may say, and that what is wrong in them is told without being repeated.
 */
import { describe, expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { openStore } from '../../receiver/store/open.js';
import { parseS3Url } from '../../receiver/store/s3/location.js';

const wrong = (parse: () => unknown): AfterimageError => {
  try {
    parse();
  } catch (error) {
    if (error instanceof AfterimageError) return error;
  }
  throw new Error('not refused');
};

describe('s3: URLs', () => {
  it('say where a bucket is and how it is asked', () => {
    expect(parseS3Url('s3://bucket')).toMatchObject({
      url: 's3://bucket/',
      bucket: 'bucket',
      prefix: '',
      endpoint: undefined,
      pathStyle: false,
    });
    const full =
      's3://bucket/a/b?endpoint=https://s3.example.com:9000/&region=eu-1&ca=/etc/ca.pem&credentials=/etc/keys&lock=compliance:30d';
    expect(parseS3Url(full)).toMatchObject({
      prefix: 'a/b/',
      endpoint: 'https://s3.example.com:9000',
      region: 'eu-1',
      pathStyle: true,
      ca: '/etc/ca.pem',
      credentials: '/etc/keys',
      lock: { mode: 'compliance', forMs: 30 * 86_400_000 },
    });
    expect(parseS3Url(parseS3Url(full).url)).toEqual(parseS3Url(full));
    expect(parseS3Url('s3://bucket/a/?endpoint=http://h&pathStyle=false')).toMatchObject({
      prefix: 'a/',
      pathStyle: false,
      region: 'us-east-1',
    });
  });

  it('that are wrong are bad input, and never repeated', () => {
    const bad = [
      's3:bucket',
      's3://',
      's3://B/x',
      's3://key:secret@bucket',
      's3://bucket/../x',
      's3://bucket/a//b',
      's3://bucket?secretAccessKey=secret',
      's3://bucket?endpoint=secret',
      's3://bucket?endpoint=http://user:secret@h',
      's3://bucket?endpoint=http://h&endpoint=http://h',
      's3://bucket?region=',
      's3://bucket?pathStyle=secret',
      's3://bucket?ca=/x',
      's3://bucket?credentials=secret',
      's3://bucket?lock=compliance',
      's3://bucket?lock=compliance:1h',
      's3://bucket?lock=secret:30d',
      `s3://bucket/${'x'.repeat(130)}`,
    ];
    for (const url of bad) {
      const error = wrong(() => parseS3Url(url));
      expect(error.exitCode, url).toBe(2);
      expect(`${error.message} ${error.hint ?? ''}`, url).not.toContain('secret@');
      expect(error.message, url).not.toMatch(/=secret|:secret|"secret"/);
    }
  });

  it('of kinds that are not known are bad input', async () => {
    for (const url of ['gs://bucket', 'secret', 's3//bucket']) {
      await expect(openStore(url)).rejects.toMatchObject({ kind: 'usage', exitCode: 2 });
    }
  });
});
