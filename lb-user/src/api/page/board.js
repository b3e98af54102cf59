// The whole board: totals, what needs attention, services, drops, flows and events.

/** With more services than these, only those in trouble are open at first. */
const N_OPEN = 12;
const N_PROBLEMS_SHOWN = 6;
const N_EVENTS_SHOWN = 200;

class Board {
  constructor() {
    this.rates = new Rates();
    this.history = new History();
    this.cards = new Map();
    this.verdicts = new Map();
    this.tiles = {
      packets: new Tile('Packets in', 'Packets received per second, last two minutes'),
      bits: new Tile('To backends', 'Bits sent to backends per second, last two minutes'),
      connections: new Tile('New connections', 'New connections per second, last two minutes'),
      dropped: new Tile('Dropped', 'Packets dropped per second, last two minutes'),
      serving: new Tile('Backends serving'),
      flows: new Tile('Flows on record'),
    };
    setTone(this.tiles.dropped.spark.element, 'bad');
    byId('totals').append(...Object.values(this.tiles).map((tile) => tile.element));
    byId('filter').addEventListener('input', () => this.applyFilter());
  }

  hello(hello) {
    this.verdicts = new Map(hello.verdicts.map((verdict) => [verdict.label, verdict]));
    byId('events').replaceChildren();
    this.history.begin();
    this.addEvents(hello.events);
  }

  show({ at_ms: now, uptime_ms: uptime, status }) {
    this.history.now = now;
    this.rates.take(uptime, countersOf(status));
    const interfaces = status.interfaces.map((one) => `${one.name} (${one.mode})`).join(', ');
    setText(byId('about'), `${status.version} on ${interfaces}${status.ready ? '' : ` · not ready yet, waits for ${status.waits_for}`}`);
    this.showTotals(status);
    this.showServices(status);
    this.showAttention(status);
    this.showDrops(status);
    this.showFlows(status);
    byId('board').setAttribute('aria-busy', 'false');
  }

  showTotals(status) {
    const { packets, bits, connections, dropped, serving, flows } = this.tiles;
    for (const [name, tile, unit] of [['packets', packets, '/s'], ['bits', bits, 'bit/s'], ['connections', connections, '/s'], ['dropped', dropped, '/s']]) {
      const rate = this.rates.of('\ntotal', name);
      tile.show(short(rate), unit, name === 'dropped' && rate > 0 ? 'bad' : '');
      tile.spark.draw(this.rates.samples('\ntotal', name));
    }
    const backends = status.services.flatMap((service) => service.backends);
    const nServing = backends.filter((backend) => backend.serving).length;
    serving.show(whole(nServing), `of ${whole(backends.length)}`, nServing < backends.length ? 'warn' : '');
    const nUp = status.services.filter((service) => service.state === 'up').length;
    setText(serving.note, `${nUp} of ${count(status.services.length, 'service')} up`);
    const { opening, guessed, established, closing, capacity } = status.flows;
    const onRecord = opening + guessed + established + closing;
    flows.show(short(onRecord), capacity ? `of ${short(capacity)}` : '');
    const restless = status.services.reduce((sum, service) => sum + service.slots_not_at_rest, 0);
    setText(flows.note, restless > 0 ? `${whole(restless)} slots not at rest` : 'all slots at rest');
  }

  showServices(status) {
    const list = byId('services');
    if (this.cards.size === 0) {
      list.replaceChildren();
    }
    const wanted = new Set(status.services.map((service) => service.name));
    for (const [name, card] of this.cards) {
      if (!wanted.has(name)) {
        card.element.remove();
        this.cards.delete(name);
      }
    }
    status.services.forEach((service, index) => {
      let card = this.cards.get(service.name);
      if (!card) {
        const isWell = service.backends.every((backend) => backend.serving);
        card = new ServiceCard(service, status.services.length <= N_OPEN || !isWell);
        this.cards.set(service.name, card);
      }
      if (list.children[index] !== card.element) {
        list.insertBefore(card.element, list.children[index] || null);
      }
      card.show(service, this.rates, this.history);
    });
    if (status.services.length === 0) {
      list.replaceChildren(make('p', 'empty', 'No service is configured.'));
    }
    this.applyFilter();
  }

  applyFilter() {
    const wanted = byId('filter').value.trim().toLowerCase();
    for (const card of this.cards.values()) {
      const [service] = card.last;
      const words = [service.name, service.vip, ...service.backends.map((backend) => backend.address)];
      card.element.classList.toggle('hidden', !words.some((word) => word.toLowerCase().includes(wanted)));
    }
  }

  showAttention(status) {
    const problems = [];
    for (const service of status.services) {
      // Who was taken out on purpose is no trouble.
      const isMeant = (backend) => backend.weight === 0 || (backend.standby && backend.state === 'up') || (backend.set && backend.set.admin) || ['drain', 'maint'].includes(backend.state);
      const out = service.backends.filter((backend) => !backend.serving && !isMeant(backend));
      const why = (backend) => `${endpoint(backend.address, backend.port)}: ${backend.unreachable || backend.check || 'not heard of yet'}`;
      const failover = service.failover || {};
      if (failover.panic) {
        problems.push(['bad', `${service.name}: panic, all backends are taken for healthy: ${failover.cause}`]);
      } else if (service.state !== 'up') {
        problems.push(['bad', `${service.name} is down: ${service.maintenance ? 'in maintenance' : out.length > 0 ? why(out[0]) : 'no backend takes connections'}`]);
      } else if (out.length > 0) {
        const more = out.length > 1 ? `, and ${count(out.length - 1, 'more backend')}` : '';
        problems.push(['warn', `${service.name}: ${why(out[0])}${more}`]);
      }
    }
    problems.sort(([a], [b]) => a.localeCompare(b));
    document.title = problems.length > 0 ? `(${problems.length}) xlb` : 'xlb';
    const section = byId('attention');
    const shown = problems.slice(0, N_PROBLEMS_SHOWN);
    if (problems.length > shown.length) {
      shown.push(['warn', `and ${count(problems.length - shown.length, 'more service')} with backends that do not serve`]);
    }
    const text = JSON.stringify(shown);
    if (section.dataset.shown !== text) {
      section.dataset.shown = text;
      section.hidden = shown.length === 0;
      const items = shown.map(([tone, words]) => {
        const item = make('li', '', words);
        setTone(item, tone);
        return item;
      });
      section.replaceChildren(make('ul', '', ...items));
    }
  }

  showDrops(status) {
    const dropped = Object.entries(status.verdicts).filter(([label, n]) => n > 0 && this.classOf(label) === 'dropped');
    dropped.sort(([, a], [, b]) => b - a);
    const text = (label) => (this.verdicts.get(label) || { text: '' }).text;
    const rows = dropped.map(([label, n]) => {
      const head = make('th', '', label);
      head.scope = 'row';
      const rate = `${short(this.rates.of('\nverdicts', label))}/s`;
      return make('tr', '', head, make('td', '', make('small', '', text(label))), make('td', 'number', whole(n)), make('td', 'number', rate));
    });
    const heads = ['Reason', 'Meaning', 'Packets', 'Rate'].map((words, index) => {
      const head = make('th', index > 1 ? 'number' : '', words);
      head.scope = 'col';
      return head;
    });
    const { received, forwarded, passed, dropped: n } = status.packets;
    byId('drops').replaceChildren(
      rows.length > 0
        ? make('table', '', make('thead', '', make('tr', '', ...heads)), make('tbody', '', ...rows))
        : make('p', 'empty', 'Nothing has been dropped.'),
      make('p', 'sum', `${whole(received)} received = ${whole(forwarded)} forwarded + ${whole(passed)} passed to the host + ${whole(n)} dropped`),
    );
  }

  classOf(label) {
    return (this.verdicts.get(label) || {}).class;
  }

  showFlows(status) {
    const { capacity, opening, guessed, established, closing, recorded, evicted, evicted_unconfirmed: unconfirmed } = status.flows;
    const onRecord = opening + guessed + established + closing;
    const fill = make('span');
    fill.style.width = capacity ? `${Math.min(100, (onRecord / capacity) * 100)}%` : '0';
    const restless = status.services.filter((service) => service.slots_not_at_rest > 0);
    const slots = restless.map((service) => `${service.name} ${whole(service.slots_not_at_rest)}`).join(', ');
    byId('flows').replaceChildren(
      make('div', 'fill', make('span', 'bar', fill), make('span', '', capacity ? `${whole(onRecord)} of ${whole(capacity)}` : 'not in use')),
      make('p', 'muted', `${whole(established)} established, ${whole(opening)} opening, ${whole(closing)} closing, ${whole(guessed)} taken up midway`),
      make('p', 'sum', `Slots not at rest: ${slots || 'none'}`),
      make('p', 'muted', `${whole(recorded)} recorded since the start, ${whole(evicted)} given up alive, ${whole(unconfirmed)} given up unconfirmed`),
    );
  }

  addEvents(events) {
    const list = byId('events');
    for (const event of events) {
      this.history.note(event);
      const [tone, words] = sentence(event);
      const time = make('time', '', clock(event.at_ms));
      time.dateTime = new Date(event.at_ms).toISOString();
      time.title = new Date(event.at_ms).toLocaleString();
      const mark = make('i');
      mark.setAttribute('aria-hidden', 'true');
      const item = make('li', '', time, mark, make('span', '', words));
      setTone(item, tone);
      list.prepend(item);
    }
    while (list.children.length > N_EVENTS_SHOWN) {
      list.lastElementChild.remove();
    }
  }
}
