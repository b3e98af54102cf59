// Changes, by whoever has the token. The page keeps that to itself, and forgets it with itself.

let token = null;

/** Asks for a change, and says what has come of it. */
async function change(method, path, body) {
  let said;
  try {
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' };
    const response = await fetch(`api/v1/${path}`, { method, headers, body: JSON.stringify(body), cache: 'no-store' });
    const answer = await response.json();
    if (response.ok) {
      said = ['good', answer.changed.length > 0 ? answer.changed.join('; ') : 'It is so already.'];
    } else {
      said = ['bad', `Not done: ${answer.error}`];
      if (response.status === 403) {
        lock();
      }
    }
  } catch (error) {
    said = ['bad', `The daemon has not answered; it may be done all the same (${error.message}).`];
  }
  say(...said);
}

function backendPath(service, backend) {
  return `services/${encodeURIComponent(service.name)}/backends/${encodeURIComponent(endpoint(backend.address, backend.port))}`;
}

function say(tone, text) {
  const said = byId('said');
  setTone(said, tone);
  setText(said, text);
  said.hidden = false;
}

function unlock(given) {
  token = given;
  byId('token').value = '';
  byId('token-form').hidden = true;
  setText(byId('changes'), 'End changes');
  document.body.classList.add('can-change');
}

function lock() {
  token = null;
  byId('token-form').hidden = true;
  setText(byId('changes'), 'Make changes');
  document.body.classList.remove('can-change');
}

byId('changes').addEventListener('click', () => {
  byId('said').hidden = true;
  if (token !== null) {
    lock();
    return;
  }
  byId('token-form').hidden = !byId('token-form').hidden;
  byId('token').focus();
});

byId('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const given = byId('token').value.trim();
  if (given !== '') {
    unlock(given);
  }
});

/** What can be changed of a backend: a drain and its end, and its weight. */
class Controls {
  constructor(service, backend) {
    const name = `${endpoint(backend.address, backend.port)} of ${service.name}`;
    const path = backendPath(service, backend);
    this.drain = make('button', '');
    this.drain.type = 'button';
    this.drain.addEventListener('click', () => change('POST', `${path}/${this.isSet ? 'enable' : 'drain'}`, {}));
    this.weight = make('input', '');
    Object.assign(this.weight, { type: 'number', min: 0, max: 65535, step: 1, required: true });
    this.weight.setAttribute('aria-label', `Weight of ${name}`);
    const set = make('button', '', 'Set weight');
    set.setAttribute('aria-label', `Set weight of ${name}`);
    const form = make('form', '', this.weight, set);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.isEdited = false;
      change('PUT', `${path}/weight`, { weight: this.weight.valueAsNumber });
    });
    // What somebody is about to write is not overwritten.
    this.weight.addEventListener('input', () => { this.isEdited = true; });
    this.name = name;
    this.elements = [this.drain, form];
  }

  show(backend) {
    this.isSet = Boolean(backend.set && backend.set.admin);
    setText(this.drain, this.isSet ? 'Enable' : 'Drain');
    this.drain.setAttribute('aria-label', `${this.isSet ? 'Enable' : 'Drain'} ${this.name}`);
    if (!this.isEdited && document.activeElement !== this.weight && this.weight.value !== `${backend.weight}`) {
      this.weight.value = backend.weight;
    }
  }
}
