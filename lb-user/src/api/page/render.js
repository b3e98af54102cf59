// From a status to the services of the document. Elements are made once and then only changed: a selection, the focus and what is
// open stay.

/** How a backend is, in a word. */
function backendState(backend) {
  const isDegraded = backend.state === 'degraded';
  if (backend.state !== 'up' && !isDegraded) {
    return [backend.state === 'down' || backend.state === 'ejected' ? 'bad' : 'warn', backend.state];
  }
  if (backend.serving) {
    const part = backend.weight_part === undefined ? '' : `, ${Math.round(backend.weight_part * 100)}%`;
    return [isDegraded || backend.flapping ? 'warn' : 'good', `${backend.state}${part}${backend.flapping ? ', flapping' : ''}`];
  }
  const admin = backend.set && backend.set.admin;
  if (admin) {
    return ['warn', admin.value === 'disable' ? 'disabled' : 'draining'];
  }
  if (backend.standby && !backend.unreachable) {
    return ['note', backend.priority === 'sorry' ? 'sorry' : 'standby'];
  }
  return backend.unreachable ? ['bad', 'unreachable'] : backend.weight === 0 ? ['warn', 'weight 0'] : ['warn', 'not serving'];
}

const COLUMNS = [
  ['Backend', 'c-backend'], ['State', 'c-state'], ['Share', 'c-share'], ['Packets/s', 'c-rate number'], ['Bits/s', 'c-rate number'],
  ['Conn/s', 'c-rate number'], ['Packets, 2 min', 'c-spark'], ['Last check', 'c-check'], ['Change', 'c-change'],
];

class BackendRow {
  constructor(service, backend) {
    this.key = backendKey(service, backend);
    const name = endpoint(backend.address, backend.port);
    const cell = (className, ...children) => {
      const element = make('td', className, ...children);
      // On a phone rows are no table rows to the eye; to who listens they still are.
      element.setAttribute('role', 'cell');
      return element;
    };
    const number = (label) => {
      const element = cell('number');
      element.dataset.label = label;
      return element;
    };
    this.zone = make('span', 'zone');
    const head = make('th', '', name, this.zone);
    head.scope = 'row';
    head.setAttribute('role', 'rowheader');
    this.pill = make('span', 'pill');
    this.strip = new Strip();
    this.fill = make('span');
    this.share = make('output');
    this.packets = number('packets/s');
    this.bits = number('bit/s');
    this.connections = number('conn/s');
    this.spark = new Spark(`Packets per second to ${name}, last two minutes`);
    this.check = cell('check');
    this.controls = new Controls(service, backend);
    const share = make('div', 'share', make('span', 'bar', this.fill), this.share);
    this.element = make('tr', '', head, cell('state', this.pill, this.strip.element), cell('at-share', share), this.packets, this.bits, this.connections,
      cell('at-spark', this.spark.element), this.check, cell('change', ...this.controls.elements));
    this.element.setAttribute('role', 'row');
  }

  show(backend, rates, history) {
    const [tone, word] = backendState(backend);
    setTone(this.element, tone);
    setTone(this.pill, tone);
    setText(this.pill, word);
    const parts = backend.weight_parts ? `, ${weightParts(backend.weight_parts)}` : '';
    const breaker = backend.breaker ? `, breaker ${backend.breaker.phase}, ejected ${count(backend.breaker.ejections, 'time')} in a row` : '';
    setText(this.zone, backend.zone ? ` zone ${backend.zone}` : '');
    const backoff = backend.backoff_s ? `, probed every ${short(backend.backoff_s)} s` : '';
    this.pill.title = `weight ${backend.weight}, ${tiers([backend.priority])}${parts}${breaker}${backoff}`;
    this.fill.style.width = percent(backend.share).replace('<', '');
    setText(this.share, percent(backend.share));
    setText(this.packets, short(rates.of(this.key, 'packets')));
    setText(this.bits, short(rates.of(this.key, 'bits')));
    setText(this.connections, short(rates.of(this.key, 'connections')));
    this.spark.draw(rates.samples(this.key, 'packets'));
    const took = backend.check_ms === undefined ? '' : ` (${backend.check_ms < 9.95 ? backend.check_ms.toFixed(1) : Math.round(backend.check_ms)} ms)`;
    setText(this.check, backend.unreachable || backend.check + took);
    this.strip.draw(history.spans(this.key, backend.state));
    this.controls.show(backend);
  }
}

class ServiceCard {
  constructor(service, isOpen) {
    this.name = service.name;
    this.rows = new Map();
    this.pill = make('span', 'pill');
    this.where = make('span', 'where');
    this.how = make('span', 'how');
    this.flow = make('span', 'flow');
    this.asides = make('div', 'asides');
    this.body = make('tbody');
    this.body.setAttribute('role', 'rowgroup');
    const heads = COLUMNS.map(([text, className]) => {
      const head = make('th', className, text);
      head.scope = 'col';
      head.setAttribute('role', 'columnheader');
      return head;
    });
    const head = make('tr', '', ...heads);
    head.setAttribute('role', 'row');
    const table = make('table', 'backends', make('thead', '', head), this.body);
    table.setAttribute('role', 'table');
    table.setAttribute('aria-label', `Backends of ${service.name}`);
    const summary = make('summary', '', make('h3', '', service.name), this.pill, this.where, this.how, this.flow);
    this.element = make('details', 'service', summary, this.asides, table);
    this.element.open = isOpen;
    // What was closed was not kept up to date.
    this.element.addEventListener('toggle', () => this.last && this.show(...this.last));
  }

  show(service, rates, history) {
    this.last = [service, rates, history];
    const n = service.backends.length;
    const nServing = service.backends.filter((backend) => backend.serving).length;
    const failover = service.failover || {};
    const isOdd = failover.panic || failover.failed_over || (failover.zones && failover.zones.spilled > 0) || service.backends.some((backend) => !backend.serving && !backend.standby);
    setTone(this.pill, nServing === 0 ? 'bad' : isOdd ? 'warn' : 'good');
    setText(this.pill, service.state === 'up' ? `up, ${nServing} of ${n}` : 'down');
    setText(this.where, `${endpoint(service.vip, service.port)}/${service.protocol}`);
    setText(this.how, `${service.forward} · ${service.algorithm}`);
    const flow = ['packets', 'bits', 'connections'].map((name) => short(rates.of(service.name, name)));
    if (this.flow.dataset.shown !== flow.join()) {
      this.flow.dataset.shown = flow.join();
      this.flow.replaceChildren(make('b', '', flow[0]), ' packets/s · ', make('b', '', flow[1]), ' bit/s · ', make('b', '', flow[2]), ' conn/s');
    }
    this.showAsides(service);
    if (this.element.open) {
      this.showRows(service, rates, history);
    }
  }

  showAsides(service) {
    const asides = [];
    if (service.slots_not_at_rest > 0) {
      asides.push(`${count(service.slots_not_at_rest, 'slot')} not at rest: flows there are tracked until none would change its backend`);
    }
    if (service.leaving.length > 0) {
      asides.push(`leaving, with the flows that they have: ${service.leaving.join(', ')}`);
    }
    if (service.dropped > 0) {
      asides.push(`${whole(service.dropped)} packets found no backend`);
    }
    const failover = service.failover || {};
    if (failover.panic) {
      asides.push(`panic: all backends are taken for healthy: ${failover.cause}`);
    } else if (failover.failed_over) {
      asides.push(`new connections go to ${tiers(failover.serving)}: ${failover.cause}`);
    }
    const zones = failover.zones;
    if (zones && zones.spilled > 0) {
      const shares = zoneShares(zones.shares.map(({ zone, share }) => [zone, share]));
      asides.push(`new connections go to ${shares}; ${Math.round(zones.spilled * 100)}% spill over: ${zones.cause}`);
    }
    if (failover.held) {
      asides.push(`held at priority ${failover.held.value} until xlb failback`);
    }
    for (const source of service.discovery || []) {
      if (source.last_error) {
        asides.push(`${source.source} ${source.name}: ${source.last_error}${source.stale ? '; the last good answer stays' : ''}`);
      }
      if (source.refused > 0) {
        asides.push(`${source.source} ${source.name}: ${count(source.refused, 'host')} refused, the log says why`);
      }
    }
    if (this.asides.dataset.shown !== asides.join('\n')) {
      this.asides.dataset.shown = asides.join('\n');
      this.asides.replaceChildren(...asides.map((text) => make('p', '', text)));
      this.asides.hidden = asides.length === 0;
    }
  }

  showRows(service, rates, history) {
    const wanted = new Set();
    service.backends.forEach((backend, index) => {
      const key = backendKey(service, backend);
      wanted.add(key);
      let row = this.rows.get(key);
      if (!row) {
        row = new BackendRow(service, backend);
        this.rows.set(key, row);
      }
      if (this.body.children[index] !== row.element) {
        this.body.insertBefore(row.element, this.body.children[index] || null);
      }
      row.show(backend, rates, history);
    });
    for (const [key, row] of this.rows) {
      if (!wanted.has(key)) {
        row.element.remove();
        this.rows.delete(key);
      }
    }
  }
}
