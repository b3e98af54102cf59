'use strict';
// What numbers, addresses and events read as.

const PREFIXES = ['', 'k', 'M', 'G', 'T'];

/** A number of three digits and a prefix, such as 1.25 M. */
function short(value) {
  let power = 0;
  while (value >= 999.5 && power + 1 < PREFIXES.length) {
    value /= 1000;
    power += 1;
  }
  const digits = value >= 99.95 || (power === 0 && Number.isInteger(value)) ? 0 : value >= 9.995 || power === 0 ? 1 : 2;
  return value.toFixed(digits) + (power ? '\u202f' + PREFIXES[power] : '');
}

function whole(value) {
  return Math.round(value).toLocaleString('en').replaceAll(',', '\u202f');
}

function percent(share) {
  const value = share * 100;
  return (value > 0 && value < 0.1 ? '<0.1' : value >= 99.95 ? '100' : value.toFixed(1)) + '%';
}

function endpoint(address, port) {
  return (address.includes(':') ? `[${address}]` : address) + `:${port}`;
}

function clock(ms) {
  const pad = (n) => String(n).padStart(2, '0');
  const at = new Date(ms);
  return [at.getHours(), at.getMinutes(), at.getSeconds()].map(pad).join(':');
}

function count(n, what) {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}

/** Priorities, or the sorry backend. */
function tiers(list) {
  return list.map((tier) => (tier === 'sorry' ? 'the sorry backend' : `priority ${tier}`)).join(' and ') || 'nobody';
}

/** Zones with what each gets; one without a name is no zone. */
function zoneShares(pairs) {
  return pairs.map(([zone, share]) => `${zone ? `zone ${zone}` : 'no zone'} ${Math.round(share * 100)}%`).join(', ');
}

/** How states are to be taken; all others are a warning. */
const STATE_TONES = { up: 'good', down: 'bad', unknown: 'note' };

/** Who wants how much of a backend's weight. */
function weightParts(parts) {
  const named = Object.entries(parts).map(([by, part]) => `${Math.round(part * 100)}% of its weight ${by === 'agent' ? 'by its agent' : 'for its slow answers'}`);
  return named.join(' and ') || 'all of its weight';
}

/** An event as a sentence, and how it is to be taken. */
function sentence(event) {
  const who = event.service + (event.backend ? ` ${event.backend}` : '');
  switch (event.kind) {
    case 'started':
      return ['note', `xlb ${event.version} started`];
    case 'missing':
      return ['note', `${count(event.n_events, 'event')} more, which only the daemon’s log has`];
    case 'ready':
      return event.ready
        ? ['good', 'Ready: every backend has been heard of']
        : ['note', `Not ready, waits for ${event.waits_for ?? 'every backend to be heard of'}`];
    case 'reload':
      return event.accepted
        ? ['good', 'The configuration was reloaded']
        : ['bad', `A reload was refused and changed nothing: ${event.cause ?? 'the daemon’s log says why'}`];
    case 'tables':
      return event.failing
        ? ['bad', `The tables are not what they should be: ${event.failing}`]
        : ['good', 'The tables are as they should be again'];
    case 'interface_attached':
      return [event.mode === 'native' ? 'good' : 'note', `Attached to ${event.interface}, ${event.mode} mode`];
    case 'interface_detached':
      return ['note', `Taken off ${event.interface}`];
    case 'discovery':
      return event.cause
        ? ['bad', `${who}: ${event.source} fails${event.stale ? ', earlier backends hold' : ''}: ${event.cause}`]
        : ['good', `${who}: ${event.source} answers again`];
    case 'service_added':
      return ['note', `${who}: added, ${event.cause}`];
    case 'service_removed':
      return ['note', `${who}: removed, ${event.cause}`];
    case 'service_state':
      return event.up ? ['good', `${who}: up, ${event.cause}`] : ['bad', `${who}: down, nobody serves: ${event.cause}`];
    case 'slots_moved':
      return ['note', `${who}: ${count(event.n_slots, 'slot')} moved, ${event.cause}`];
    case 'backend_added':
      return ['note', `${who}: added with weight ${event.weight}, ${event.cause}`];
    case 'backend_removed':
      return ['note', `${who}: removed, ${event.cause}`];
    case 'backend_state':
      return [STATE_TONES[event.to] ?? 'warn', `${who}: ${event.from} → ${event.to}, ${event.cause}`];
    case 'weight_part':
      return ['note', `${who}: ${weightParts(event.parts)}, ${event.cause}`];
    case 'suspected':
      return ['warn', `${who}: suspected, probed at once: ${event.cause}`];
    case 'flapping':
      return event.flapping ? ['warn', `${who}: comes and goes too often`] : ['good', `${who}: no longer comes and goes`];
    case 'backend_reach':
      return event.unreachable ? ['bad', `${who}: ${event.unreachable}`] : ['good', `${who}: can be reached`];
    case 'backend_weight':
      return ['note', `${who}: weight ${event.from} → ${event.to}${event.by ? `, set by ${event.by}` : ''}`];
    case 'backend_admin': {
      const set = event.set;
      const done = !set ? 'enabled' : set.value === 'disable' ? 'disabled' : 'drains';
      return [set ? 'warn' : 'good', `${who}: ${done}${set ? `, by ${set.by}` : ''}`];
    }
    case 'drained':
      return ['good', `${who}: drained${event.silent_possible ? ', but for silent flows' : ''}`];
    case 'maintenance':
      return event.set ? ['warn', `${who}: in maintenance, by ${event.set.by}`] : ['good', `${who}: no longer in maintenance`];
    case 'failover': {
      const [from, to] = [tiers(event.from), tiers(event.to)];
      return [event.to.includes('sorry') ? 'bad' : 'warn', `${who}: new connections go to ${to}, no longer to ${from}: ${event.cause}`];
    }
    case 'panic':
      return event.panic
        ? ['bad', `${who}: panic, all backends are taken for healthy: ${event.cause}`]
        : ['good', `${who}: no longer in panic: ${event.cause}`];
    case 'spillover': {
      const shares = zoneShares(Object.entries(event.shares));
      if (Object.values(event.shares).every((share) => share === 0)) {
        return ['bad', `${who}: no zone can take new connections: ${event.cause}`];
      }
      return event.spilled > 0
        ? ['warn', `${who}: ${Math.round(event.spilled * 100)}% of new connections spill over to other zones, now ${shares}: ${event.cause}`]
        : ['good', `${who}: new connections are divided among zones as usual, ${shares}: ${event.cause}`];
    }
    case 'slow_start':
      return ['note', event.over ? `${who}: has all of its weight` : `${who}: starts slowly`];
    default:
      return ['note', event.kind];
  }
}
