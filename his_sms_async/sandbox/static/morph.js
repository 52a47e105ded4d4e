// Brings a part of the page up to date without replacing what is still the same.
//
// Focus, what is being typed, scroll positions and open <details> so survive, and a screen reader hears of a log
// only what is new in it. An element with data-keep is the page's own; attributes data-ui-… and `open` are too.

/** Make `old` look like `fresh`, and return it, or what stands in its place. */
export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    const replacement = document.importNode(fresh, true);
    old.replaceWith(replacement);
    return replacement;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) {
      old.data = fresh.data;
    }
  } else if (!old.hasAttribute("data-keep") && !old.isEqualNode(fresh)) {
    if (old !== document.activeElement || !isEntry(old)) {
      morphAttributes(old, fresh);
      morphChildren(old, fresh);
    }
  }
  return old;
}

function morphAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !isOwn(name)) {
      old.removeAttribute(name);
    }
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isOwn(name)) {
      old.setAttribute(name, value);
    }
  }
}

function morphChildren(old, fresh) {
  const news = [...fresh.childNodes];
  const wanted = new Set(news.map(keyOf).filter(Boolean));
  const known = new Map();
  for (const child of [...old.childNodes]) {
    const key = keyOf(child);
    if (key && !wanted.has(key)) {
      child.remove(); // first, so that what stays need not be moved
    } else if (key) {
      known.set(key, child);
    }
  }
  let place = old.firstChild;
  for (const node of news) {
    const key = keyOf(node);
    const match = key ? known.get(key) : place && !keyOf(place) && place.nodeName === node.nodeName ? place : null;
    if (!match) {
      old.insertBefore(document.importNode(node, true), place);
    } else if (match === place) {
      place = place.nextSibling;
      morph(match, node);
    } else {
      old.insertBefore(match, place);
      morph(match, node);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function keyOf(node) {
  return node.dataset?.key || node.id || "";
}

function isEntry(element) {
  return element.matches("input, select, textarea");
}

function isOwn(name) {
  return name === "open" || name.startsWith("data-ui-");
}
