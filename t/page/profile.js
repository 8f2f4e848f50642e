// profile.js: the script of profile.html.  A field is saved by the button
// beside it; #said then has the id of the entry, or the error.

import { initializeApp } from 'https://www.gstatic.com/firebasejs/11.10.0/firebase-app.js';
import * as sdk from 'https://www.gstatic.com/firebasejs/11.10.0/firebase-firestore.js';
import { portal } from './member-profile.js';

const given = new URLSearchParams(location.search);
const [host, port] = given.get('emulator').split(':');
const db = sdk.getFirestore(initializeApp({ projectId: given.get('project'), apiKey: 'none' }));
sdk.connectFirestoreEmulator(db, host, Number(port), { mockUserToken: { sub: 'admin', admin: true } });
const pages = portal(sdk, db);

const byId = (id) => document.getElementById(id);
const form = byId('profile');
const docId = given.get('member');
let member;

// The labels of the codes, as documents have either.
const genders = { male: '1', female: '2', other: '3' };

pages.watch(docId, (data) => {
  member = { docId, kennitala: data.profile.kennitala, djangoId: data.metadata.django_id };
  byId('title').textContent = data.profile.name;
  for (const field of form.querySelectorAll('[name]')) {
    const value = data.profile[field.name] ?? '';
    if (field === document.activeElement) continue;
    field.value = field.name === 'gender' ? genders[value] ?? value : value;
  }
});

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const field = event.submitter.parentElement.querySelector('[name]');
  let { value } = field;
  if (field.name === 'gender') value = value === '' ? null : Number(value);
  byId('said').textContent = '';
  try {
    byId('said').textContent = await pages.saveField(member, field.name, value);
  } catch (error) {
    byId('said').textContent = `${error.code}: ${error.message}`;
  }
});

byId('refresh').addEventListener('click', async () => {
  const runs = await pages.history(20);
  byId('history').replaceChildren(...runs.map((run) => {
    const row = document.createElement('tr');
    const { firestore_to_django: django, django_to_firestore: firestore } = run.stats;
    for (const text of [run.completed_at.toDate().toISOString(), run.status,
      `${django.success} / ${django.failed}`, `${firestore.success} / ${firestore.failed}`]) {
      row.insertCell().textContent = text;
    }
    row.dataset.id = run.id;
    return row;
  }));
});
