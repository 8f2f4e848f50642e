// client.mjs: the portal in Node, with the real Firebase SDK, for t/130_page.pl;
// and the server of its pages for a browser.
//
//	node client.mjs HOST:PORT PROJECT
//
// in the directory where the SDK is installed.  Prints the port of the pages as
// a first line; then, for each line of JSON on its input, [method, argument...],
// a line of JSON: {"ok": result} or {"error": [code, message]}.  Ends with its
// input.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { portal } from './member-profile.js';

const [emulator, project] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const { initializeApp } = require('firebase/app');
const sdk = require('firebase/firestore');

// ------------------------------------------------------------------- the pages

const here = new URL('./', import.meta.url);
const bundles = pathToFileURL(`${process.cwd()}/node_modules/firebase/`);
const types = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8' };

const server = createServer(async (request, answer) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  const match = /^\/(sdk\/)?([\w-]+\.(html|js))$/.exec(pathname);
  try {
    const file = await readFile(new URL(match[2], match[1] ? bundles : here));
    answer.writeHead(200, { 'content-type': types[match[3]] }).end(file);
  } catch {
    answer.writeHead(404).end();
  }
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
console.log(server.address().port);

// ------------------------------------------------------------------ the client

// As an admin of the portal, or with the claims given.
function connect(name, claims) {
  const db = sdk.getFirestore(initializeApp({ projectId: project, apiKey: 'none' }, name));
  const [host, port] = emulator.split(':');
  sdk.connectFirestoreEmulator(db, host, Number(port), { mockUserToken: claims });
  return db;
}

const db = connect('admin', { sub: 'admin', admin: true });
const pages = portal(sdk, db);
const others = portal(sdk, connect('member', { sub: 'member' }));

const methods = {
  saveField: pages.saveField,
  saveFieldAsMember: others.saveField,
  history: pages.history,

  // A document's fields; null if there is none.
  async get(path) {
    const snapshot = await sdk.getDoc(sdk.doc(db, path));
    return snapshot.exists() ? snapshot.data() : null;
  },

  // Entries whose created_at is the server's time, as a function makes them.
  async addEntry(entry) {
    const added = await sdk.addDoc(sdk.collection(db, 'sync_queue'),
      { ...entry, created_at: sdk.serverTimestamp() });
    return added.id;
  },
};

// Times as the pages show them.
function plain(name, value) {
  return value && typeof value.seconds === 'number'
    ? new sdk.Timestamp(value.seconds, value.nanoseconds).toDate().toISOString() : value;
}

for await (const line of createInterface({ input: process.stdin })) {
  let result;
  try {
    const [method, ...args] = JSON.parse(line);
    result = { ok: (await methods[method](...args)) ?? null };
  } catch (error) {
    result = { error: [error.code ?? null, error.message] };
  }
  console.log(JSON.stringify(result, plain));
}
process.exit(0);
