// member-profile.js: what the member portal's two pages do with Firestore.  The
// profile page saves a field: it updates the member's document, then adds an
// entry to sync_queue.  The history page lists the runs in sync_logs.
//
// The SDK is the caller's: the npm package in Node, its bundles in a browser.

export function portal(sdk, db) {
  const { addDoc, collection, doc, getDocs, limit, onSnapshot, orderBy, query, updateDoc } = sdk;

  return {
    // Save a field of the profile; returns the id of the entry.
    async saveField(member, field, value) {
      await updateDoc(doc(db, 'members', member.docId), {
        [`profile.${field}`]: value,
        updated_at: new Date(),
      });
      const entry = await addDoc(collection(db, 'sync_queue'), {
        source: 'firestore',
        target: 'django',
        collection: 'members',
        docId: member.docId,
        kennitala: member.kennitala,
        django_id: member.djangoId,
        action: 'update',
        changes: { [`profile.${field}`]: value },
        created_at: new Date(),
        synced_at: null,
        sync_status: 'pending',
      });
      return entry.id;
    },

    // Call show with the member's document now, and whenever it changes.
    watch(docId, show) {
      return onSnapshot(doc(db, 'members', docId), (snapshot) => show(snapshot.data()));
    },

    // The newest runs, newest first.
    async history(count) {
      const runs = await getDocs(
        query(collection(db, 'sync_logs'), orderBy('completed_at', 'desc'), limit(count)));
      return runs.docs.map((run) => {
        const { type, status, stats, completed_at } = run.data();
        return { id: run.id, type, status, stats, completed_at };
      });
    },
  };
}
