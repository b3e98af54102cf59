// What the page is made of. Whatever comes from outside becomes text, never markup.

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) {
    element.className = className;
  }
  element.append(...children);
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function setTone(element, tone) {
  if (element.dataset.tone !== tone) {
    element.dataset.tone = tone;
  }
}

function svg(tag, className) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  element.setAttribute('class', className);
  return element;
}

class Spark {
  constructor(label) {
    this.element = svg('svg', 'spark');
    this.element.setAttribute('viewBox', `0 0 ${N_SAMPLES} 100`);
    this.element.setAttribute('preserveAspectRatio', 'none');
    this.element.setAttribute('role', 'img');
    this.element.setAttribute('aria-label', label);
    this.area = svg('path', 'area');
    this.line = svg('path', 'line');
    this.element.append(this.area, this.line);
  }

  draw(samples) {
    this.area.setAttribute('d', sparkPath(samples, true));
    this.line.setAttribute('d', sparkPath(samples, false));
  }
}

class Tile {
  constructor(label, sparkLabel) {
    this.value = make('span', 'value');
    this.note = make('span', 'note');
    this.element = make('div', 'tile', make('span', 'label', label), this.value);
    if (sparkLabel) {
      this.spark = new Spark(sparkLabel);
      this.element.append(this.spark.element);
    } else {
      this.element.append(this.note);
    }
  }

  show(value, unit, tone = '') {
    const text = `${value} ${unit}`;
    if (this.shown !== text) {
      this.shown = text;
      this.value.replaceChildren(value, make('small', '', unit));
    }
    setTone(this.element, tone);
  }
}

/** A bar of what was when, newest at the right. */
class Strip {
  constructor() {
    this.element = svg('svg', 'strip');
    this.element.setAttribute('viewBox', '0 0 1000 10');
    this.element.setAttribute('preserveAspectRatio', 'none');
    this.element.setAttribute('role', 'img');
  }

  draw(spans) {
    const bars = spans.map((span) => {
      const bar = svg('rect', '');
      bar.setAttribute('x', Math.round(span.from * 1000));
      // What was too short to see is seen all the same.
      bar.setAttribute('width', Math.max(4, Math.round((span.to - span.from) * 1000)));
      bar.setAttribute('height', 10);
      setTone(bar, STATE_TONES[span.state] ?? 'warn');
      return bar;
    });
    this.element.replaceChildren(...bars);
    this.element.setAttribute('aria-label', historyWords(spans));
  }
}
