"""Prints what is wrong with the package's Icelandic texts: those of the
sources that the catalogue lacks or that nobody uses, and where the compiled
catalogue differs from the one that people edit.  Needs no gettext."""

import ast
import gettext
import pathlib
import re

import ekksync

root = pathlib.Path(ekksync.__file__).parent
used = set()
for path in sorted(root.rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if node.func.id in ('_', 'gettext', 'gettext_lazy') and texts:
                used.add((None, texts[0]))
            elif node.func.id in ('pgettext', 'pgettext_lazy'):
                used.add((texts[0], texts[1]))
            elif node.func.id == 'ngettext':
                used.add((None, texts[0]))
for path in sorted(root.rglob('*.html')):
    for quote, text in re.findall(r"""\{% translate (['"])(.*?)\1 %\}""", path.read_text()):
        used.add((None, text))

entries = {}
context, text, plural, values, at = None, None, None, {}, None


def close():
    if text:
        entries[(context, text)] = values
    return None, None, None, {}, None


folder = root / 'locale/is/LC_MESSAGES'
for line in (folder / 'django.po').read_text().splitlines() + ['']:
    if not line.strip():
        context, text, plural, values, at = close()
        continue
    if line.startswith('#'):
        continue
    word, rest = (None, line) if line.startswith('"') else line.split(' ', 1)
    piece = ast.literal_eval(rest)
    if word == 'msgctxt':
        context, at = piece, 'context'
    elif word == 'msgid':
        text, at = piece, 'text'
    elif word == 'msgid_plural':
        plural, at = piece, 'plural'
    elif word is not None:
        at = int(re.sub(r'\D', '', word) or 0)
        values[at] = piece
    elif isinstance(at, int):
        values[at] += piece
    elif at == 'text':
        text += piece

own = {'Home'}      # texts of Django's, which has them in Icelandic
for key in sorted(used - set(entries), key=str):
    if key[1] not in own:
        print('not translated:', key)
for key in sorted(set(entries) - used, key=str):
    print('not used:', key)
with open(folder / 'django.mo', 'rb') as file:
    compiled = gettext.GNUTranslations(file)._catalog
for (context, text), values in entries.items():
    for n, value in values.items():
        key = text if context is None else context + '\x04' + text
        found = compiled.get((key, n), compiled.get(key) if len(values) == 1 else None)
        if not value:
            print('empty:', text)
        elif found != value:
            print('compile it anew (msgfmt -o django.mo django.po):', text)
        if sorted(re.findall(r'%(?:\(\w+\))?[.\d]*[a-z]', text)) != sorted(re.findall(r'%(?:\(\w+\))?[.\d]*[a-z]', value)):
            print('other placeholders:', text)
