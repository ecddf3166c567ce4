// The pictures, newest first. One stop for Tab, arrow keys between pictures.

const pictures = [];
const wall = () => document.getElementById("wall");

/** Adds a picture in front; `choose` is called with it whenever it is picked. */
export function add(picture, choose) {
  pictures.unshift(picture);
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("role", "option");
  button.setAttribute("aria-label", `${picture.order.prompt}, seed ${picture.seed}`);
  button.append(Object.assign(document.createElement("img"), { src: picture.url, alt: "" }));
  button.addEventListener("click", () => { select(button); choose(picture); });
  button.addEventListener("keydown", move);
  wall().prepend(button);
  document.getElementById("gallery").hidden = false;
  select(button);
}

function select(button) {
  for (const each of wall().children) {
    each.setAttribute("aria-selected", String(each === button));
    each.tabIndex = each === button ? 0 : -1;
  }
}

function move(event) {
  const all = [...wall().children];
  const at = all.indexOf(event.currentTarget);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined || !all[to]) return;
  event.preventDefault();
  all[to].focus();
  all[to].click();
}

export function clear() {
  for (const { url } of pictures.splice(0)) URL.revokeObjectURL(url);
  wall().replaceChildren();
  document.getElementById("gallery").hidden = true;
}
