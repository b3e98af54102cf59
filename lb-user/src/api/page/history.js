// How backends were, by the events that tell of it.

/** What is shown of it. */
const HISTORY_MS = 10 * 60 * 1000;

class History {
  constructor() {
    this.turns = new Map();
    this.startedAt = 0;
    /** By the daemon's clock, as everything here. */
    this.now = 0;
  }

  /** The events of another daemon follow, from the first that it has. */
  begin() {
    this.turns.clear();
    this.startedAt = 0;
  }

  note(event) {
    if (event.kind === 'started') {
      this.startedAt = event.at_ms;
    }
    if (event.kind !== 'backend_state') {
      return;
    }
    const key = `${event.service}\n${event.backend}`;
    const turns = this.turns.get(key) || [];
    turns.push({ at: event.at_ms, from: event.from, to: event.to });
    // The wall clock may have been set back.
    while (turns.length > 1 && turns[1].at < event.at_ms - HISTORY_MS) {
      turns.shift();
    }
    this.turns.set(key, turns);
  }

  /** Spans of one state each up to now, oldest first: from and to as parts of what is shown. */
  spans(key, state) {
    const now = this.now;
    const begin = Math.max(now - HISTORY_MS, this.startedAt);
    const turns = (this.turns.get(key) || []).filter((turn) => turn.at > begin && turn.at <= now);
    const edges = [begin, ...turns.map((turn) => turn.at), now];
    const states = [turns.length > 0 ? turns[0].from : state, ...turns.map((turn) => turn.to)];
    const part = (at) => Math.min(1, Math.max(0, 1 - (now - at) / HISTORY_MS));
    return states.map((word, index) => ({ state: word, from: part(edges[index]), to: part(edges[index + 1]) }));
  }
}

/** In words, for who does not see colours. */
function historyWords(spans) {
  const shown = spans.reduce((sum, span) => sum + span.to - span.from, 0);
  const up = spans.filter((span) => span.state === 'up').reduce((sum, span) => sum + span.to - span.from, 0);
  const changes = count(spans.length - 1, 'change');
  return shown > 0 ? `Up for ${Math.round((up / shown) * 100)}% of the last ${Math.max(1, Math.round((shown * HISTORY_MS) / 60000))} min, ${changes}` : 'Just begun';
}
