// Rates from counters, each with its last two minutes.

const N_SAMPLES = 120;
/** Status also comes at every change; over a shorter time a rate would be chance. */
const SAMPLE_MIN_MS = 900;

class Rates {
  constructor() {
    this.series = new Map();
    this.at = null;
  }

  /** Takes counters, `[key, { name: count }]`, as they stood at `at` milliseconds. */
  take(at, counters) {
    const elapsed = this.at === null ? null : at - this.at;
    if (elapsed !== null && elapsed >= 0 && elapsed < SAMPLE_MIN_MS) {
      return;
    }
    // Another daemon counts from the start.
    const seconds = elapsed !== null && elapsed > 0 ? elapsed / 1000 : null;
    const before = this.series;
    this.series = new Map();
    this.at = at;
    for (const [key, counts] of counters) {
      const known = before.get(key);
      const rates = {};
      const samples = {};
      for (const [name, value] of Object.entries(counts)) {
        const last = known && name in known.counts ? known.counts[name] : value;
        rates[name] = seconds === null ? 0 : Math.max(0, value - last) / seconds;
        samples[name] = known ? known.samples[name] : [];
        samples[name].push(rates[name]);
        if (samples[name].length > N_SAMPLES) {
          samples[name].shift();
        }
      }
      this.series.set(key, { counts, rates, samples });
    }
  }

  of(key, name) {
    const series = this.series.get(key);
    return series ? series.rates[name] || 0 : 0;
  }

  samples(key, name) {
    const series = this.series.get(key);
    return series ? series.samples[name] || [] : [];
  }
}

/** The counters of a status, by the keys that the page asks for. */
function* countersOf(status) {
  const total = { bits: 0, connections: 0 };
  for (const service of status.services) {
    total.bits += service.bytes * 8;
    total.connections += service.connections;
    yield [service.name, traffic(service)];
    for (const backend of service.backends) {
      yield [backendKey(service, backend), traffic(backend)];
    }
  }
  yield ['\ntotal', { ...total, packets: status.packets.received, dropped: status.packets.dropped }];
  yield ['\nverdicts', status.verdicts];
}

function traffic(counted) {
  return { packets: counted.packets, bits: counted.bytes * 8, connections: counted.connections };
}

/** Names of services hold no line break, so no key is another's. */
function backendKey(service, backend) {
  return `${service.name}\n${endpoint(backend.address, backend.port)}`;
}

/** The path of a sparkline in a box of N_SAMPLES by 100, newest at the right; its area if `closed`. */
function sparkPath(samples, closed) {
  const top = Math.max(...samples, 1);
  const left = N_SAMPLES - samples.length;
  const points = samples.map((value, i) => `${left + i + 0.5} ${(98 - (value / top) * 94).toFixed(1)}`);
  if (points.length < 2) {
    return '';
  }
  const line = 'M' + points.join('L');
  return closed ? `${line}V100H${left + 0.5}Z` : line;
}
