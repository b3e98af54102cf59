// Follows the daemon, says so when it is gone, and comes back when it does.

const RETRY_MS = 2000;
/** A status comes every second: after this long without one, the connection is not worth waiting for. */
const SILENCE_MS = 6000;

const board = new Board();
let stream = null;
let silence = null;
let retry = null;
let lastHeard = null;

function follow() {
  stream = new EventSource('api/v1/events');
  listen();
  stream.addEventListener('hello', (event) => board.hello(JSON.parse(event.data)));
  stream.addEventListener('changes', (event) => board.addEvents(JSON.parse(event.data)));
  stream.addEventListener('status', (event) => {
    heard();
    board.show(JSON.parse(event.data));
  });
  stream.addEventListener('trouble', (event) => {
    listen();
    showTrouble(`The daemon says: ${JSON.parse(event.data).error}.`);
  });
  stream.addEventListener('end', (event) => lose(`The daemon ended this connection (${JSON.parse(event.data).reason}).`));
  stream.addEventListener('error', () => lose('The daemon does not answer.'));
}

function listen() {
  clearTimeout(silence);
  silence = setTimeout(() => lose('The daemon has gone silent.'), SILENCE_MS);
}

function heard() {
  listen();
  lastHeard = Date.now();
  byId('notice').hidden = true;
  byId('board').classList.remove('old');
  setTone(byId('link'), 'good');
  setText(byId('link'), 'live');
}

function lose(why) {
  clearTimeout(silence);
  clearTimeout(retry);
  stream.close();
  showTrouble(why);
  retry = setTimeout(follow, RETRY_MS);
}

function showTrouble(why) {
  const since = lastHeard === null ? '' : ` Below is what it last said, at ${clock(lastHeard)}.`;
  setText(byId('notice'), `${why}${since} Trying again every ${RETRY_MS / 1000} seconds.`);
  byId('notice').hidden = false;
  byId('board').classList.toggle('old', lastHeard !== null);
  setTone(byId('link'), 'bad');
  setText(byId('link'), 'no connection');
}

follow();
