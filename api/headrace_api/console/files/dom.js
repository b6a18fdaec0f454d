// Making and renewing elements. Text is only ever set as text.

export const byId = (id) => document.getElementById(id);

// element("td.num", {title: "x"}, "text", child)
export function element(name, attributes = {}, ...content) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// One child per item, in order. A child stays while its item does, so that focus and selection do too.
export function keyed(parent, items, keyOf, make, renew) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    renew(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}

// Sets the text of the cells of a row, in order; null leaves a cell alone.
export function setCells(row, texts) {
  texts.forEach((text, index) => {
    if (text !== null) setText(row.cells[index], text);
  });
}

let noticed;
export function notice(text) {
  byId("notice").textContent = text;
  clearTimeout(noticed);
  noticed = setTimeout(() => { byId("notice").textContent = ""; }, 6000);
}
