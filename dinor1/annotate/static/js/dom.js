// Functions that create elements of the page without a framework.

/**
 * Create an element.
 * @param {string} tag
 * @param {object} properties `class`, `text`, `on` (event -> listener), `data` (name -> value). Other properties are
 *   attributes: true sets an attribute, false and null omit it.
 * @param {...(Node|string|null)} children
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'class') element.className = value;
    else if (name === 'text') element.textContent = value;
    else if (name === 'on') Object.entries(value).forEach((entry) => element.addEventListener(...entry));
    else if (name === 'data') Object.assign(element.dataset, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set a custom property of CSS. The policy of the page allows this, but no style attribute. */
export function setStyle(element, name, value) {
  element.style.setProperty(name, value);
  return element;
}

/** The one of black and white that is easier to read on a colour `#rrggbb` (relative luminance of WCAG). */
export function textOn(color) {
  const linear = [1, 3, 5].map((i) => {
    const value = parseInt(color.slice(i, i + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 ? '#000000' : '#ffffff';
}

const ICONS = {
  check: 'M4 10.5l4 4 8-9',
  cross: 'M5 5l10 10M15 5L5 15',
  undo: 'M8 4L4 8l4 4M4 8h7a5 5 0 010 10H8',
  redo: 'M12 4l4 4-4 4M16 8H9a5 5 0 000 10h3',
  plus: 'M10 4v12M4 10h12',
  minus: 'M4 10h12',
  fit: 'M4 8V4h4M12 4h4v4M16 12v4h-4M8 16H4v-4',
  star: 'M10 3l2.1 4.6 5 .5-3.8 3.3 1.1 4.9L10 13.8l-4.4 2.5 1.1-4.9L2.9 8.1l5-.5z',
  block: 'M10 3a7 7 0 100 14 7 7 0 000-14zM5 5l10 10',
  pencil: 'M4 16l1-4 8-8 3 3-8 8zM11 6l3 3',
  trash: 'M4 6h12M8 6V4h4v2M6 6l1 10h6l1-10',
  text: 'M5 6V4h10v2M10 4v12M8 16h4',
  search: 'M9 4a5 5 0 100 10A5 5 0 009 4zM13 13l4 4',
};

/** A line icon of 20 x 20 units in the colour of the text. */
export function icon(name) {
  const namespace = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(namespace, 'svg');
  for (const [key, value] of Object.entries({ viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true' })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(namespace, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}
