/* The sync line above the lists: starts a run, and shows how far one is.
   Without this script the button works as well, and the line stands still. */
'use strict';

(function () {
	const form = document.querySelector('.ekksync-sync');
	if (!form) {
		return;
	}
	const button = form.querySelector('button');
	const line = form.querySelector('.ekksync-line');
	const bar = form.querySelector('.ekksync-progress');

	function show(state) {
		line.textContent = state.line;
		line.classList.toggle('ekksync-bad', !state.good);
		bar.hidden = !state.running;
		if (state.percent === null) {
			bar.removeAttribute('value');
		} else {
			bar.value = state.percent;
		}
		if (button) {
			button.disabled = state.running;
		}
		if (state.running) {
			setTimeout(look, 1000, state.run);
		}
	}

	async function ask(url, options) {
		const answer = await fetch(url, {
			credentials: 'same-origin',
			...options,
			headers: {Accept: 'application/json'}
		});
		if (!answer.ok || answer.redirected) {
			throw new Error(answer.status + ' ' + answer.statusText);
		}
		return answer.json();
	}

	async function look(run) {
		const url = form.dataset.progress + (run ? '?run=' + run : '');
		try {
			show(await ask(url));
		} catch (error) {
			/* the server restarts, say: ask again */
			setTimeout(look, 5000, run);
		}
	}

	form.addEventListener('submit', async function (event) {
		event.preventDefault();
		button.disabled = true;
		try {
			show(await ask(form.action, {method: 'POST', body: new FormData(form)}));
		} catch (error) {
			show({running: false, line: String(error), percent: null, good: false});
		}
	});

	if (form.dataset.run) {
		look(form.dataset.run);
	}
})();
