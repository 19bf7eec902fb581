/**
 * The same work for many items, some at a time. After an error nothing new is begun; it is thrown once what runs has ended.
 */
export async function forEachAtOnce<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failure: { readonly error: unknown } | null = null;
  const worker = async (): Promise<void> => {
    while (failure === null && next < items.length) {
      try {
        await work(items[next++] as T);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  // The compiler does not see that the workers set it.
  const failed = failure as { readonly error: unknown } | null;
  if (failed !== null) throw failed.error;
}
