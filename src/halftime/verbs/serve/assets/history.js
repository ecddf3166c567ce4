// The pictures of this browser, kept in it alone (IndexedDB), so that a reload finds them again. Without it, in
// a private window for example, the page works as before and forgets.

const MOST = 60;
const STORE = "pictures";

function opened() {
  return new Promise((done, fail) => {
    const request = indexedDB.open("halftime", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "at" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
}

async function within(mode, work) {
  try {
    const base = await opened();
    try {
      return await new Promise((done, fail) => {
        const change = base.transaction(STORE, mode);
        const request = work(change.objectStore(STORE));
        change.oncomplete = () => done(request?.result);
        change.onerror = change.onabort = () => fail(change.error);
      });
    } finally {
      base.close();
    }
  } catch {
    return undefined;
  }
}

let last = 0;

/** Keeps a picture: its file, and what it was drawn with. The oldest beyond a number go. */
export async function keep({ blob, order, seed, size, timing, format }) {
  last = Math.max(Date.now(), last + 1); // several in one millisecond stay in order
  await within("readwrite", (store) => store.put({ at: last, blob, order, seed, size, timing, format }));
  const all = (await within("readonly", (store) => store.getAllKeys())) ?? [];
  const old = all.slice(0, Math.max(0, all.length - MOST));
  if (old.length) await within("readwrite", (store) => store.delete(IDBKeyRange.upperBound(old.at(-1))));
}

/** What was kept, oldest first. */
export async function kept() {
  return (await within("readonly", (store) => store.getAll())) ?? [];
}

export const forget = () => within("readwrite", (store) => store.clear());
