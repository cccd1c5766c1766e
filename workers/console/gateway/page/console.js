// The console's page: it exchanges the link's token for a session, shows the machine's screen with noVNC, and says in plain words what is
// the matter when it cannot.
import RFB from "./novnc/core/rfb.js";
import KeyTable from "./novnc/core/input/keysym.js";
import keysyms from "./novnc/core/input/keysymdef.js";

const $ = (id) => document.getElementById(id);

// What keeps a viewer out, by the gateway's codes: a title, what to do, and whether trying again by itself may help.
const words = {
  expired: ["This link has expired", "Ask for a new one where you got it."],
  used: ["This link has been used", "Each link opens once. Ask for a new one where you got it."],
  revoked: ["Access was withdrawn", "The machine was removed or suspended, or its console password changed. Ask for a new link."],
  unknown: ["This link does not open anything", "Ask for a new one where you got it."],
  address: ["This link is for another address", "It opens only from the network that it was issued for."],
  origin: ["This page is not where the console lives", "Open the link itself."],
  closed: ["The console is closed", "This machine has no console at the moment."],
  off: ["The machine is switched off", "Its screen comes back when it is started.", true],
  unreachable: ["The machine's host does not answer", "Its screen comes back when the host does.", true],
  place: ["The machine's screen cannot be found", "The pool does not say where it is. If this stays, ask your provider.", true],
  busy: ["Too many people are looking", "Close the console somewhere else, or try again later."],
  ended: ["The screen went away", "The machine restarts, moves or was switched off. Trying again …", true],
  away: ["The console is out of order", "Trying again …", true],
};
const closeCodes = { 4001: "revoked", 4002: "off", 4003: "unreachable", 4004: "busy", 4005: "ended", 4006: "closed", 4007: "place" };

let token = location.hash.slice(1); // until it was answered for good
let rfb = null;
let connecting = false;
let timer = 0;
let tries = 0;

function phase(name) { document.body.dataset.phase = name; }

function buttons(open) {
  for (const id of ["ctrl-alt-del", "clipboard", "keyboard"]) $(id).disabled = !open;
}

// say shows why there is no picture, and tries again by itself when that may help: after 1, 2, 4 … seconds, at most 30.
function say(code) {
  const [title, text, again] = words[code] ?? words.away;
  $("message-title").textContent = title;
  $("message-text").textContent = text;
  $("message").hidden = false;
  $("message-connect").hidden = $("connect").hidden = !again && code !== "busy";
  $("state").textContent = title;
  phase(again ? "waiting" : "over");
  buttons(false);
  clearTimeout(timer);
  if (again) timer = setTimeout(connect, Math.min(30, 2 ** tries++) * 1000);
  return null;
}

function welcome(session) {
  $("name").textContent = session.name;
  document.title = session.name + " – Console";
  $("state").textContent = session.state.replaceAll("_", " ");
}

async function codeOf(response) {
  try { return (await response.json()).code ?? "away"; } catch { return "away"; }
}

// enter makes a session of the link's token, or finds the one of an earlier link. It returns the session, or null when that was said. A
// token that nobody has answered for is kept for the next try.
async function enter() {
  if (token !== "") {
    const response = await fetch("session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
    const code = response.ok ? "" : await codeOf(response);
    if (code === "away") return say(code);
    token = "";
    if (response.ok) return response.json();
    if (code !== "used") return say(code); // a used one may be this very page's, reloaded
    const earlier = await fetch("session");
    return earlier.ok ? earlier.json() : say(code);
  }
  const response = await fetch("session");
  return response.ok ? response.json() : say(await codeOf(response));
}

async function connect() {
  clearTimeout(timer);
  if (rfb !== null || connecting) return;
  connecting = true;
  try {
    const session = await enter();
    if (session !== null) show(session);
  } catch {
    say("away");
  } finally {
    connecting = false;
  }
}

function show(session) {
  welcome(session);

  const address = new URL("socket", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address, ["binary"]);
  let code = "ended";
  socket.addEventListener("close", (event) => { code = event.reason in words ? event.reason : closeCodes[event.code] ?? "ended"; });
  const mine = new RFB($("screen"), socket, { shared: true });
  rfb = mine;
  mine.scaleViewport = true;
  mine.focusOnClick = true;
  mine.addEventListener("connect", () => {
    tries = 0;
    phase("open");
    $("message").hidden = $("connect").hidden = true;
    $("state").textContent = "Connected";
    buttons(true);
    mine.focus();
  });
  mine.addEventListener("clipboard", (event) => { $("clipboard-text").value = event.detail.text; });
  mine.addEventListener("disconnect", () => {
    // The socket's close event may come after noVNC's.
    setTimeout(() => {
      if (rfb === mine) rfb = null;
      say(code);
    }, 0);
  });
}

for (const id of ["connect", "message-connect"]) $(id).addEventListener("click", () => { tries = 0; connect(); });
$("ctrl-alt-del").addEventListener("click", () => { rfb?.sendCtrlAltDel(); rfb?.focus(); });
$("clipboard").addEventListener("click", () => {
  const panel = $("clipboard-panel");
  panel.hidden = !panel.hidden;
  $("clipboard").setAttribute("aria-expanded", String(!panel.hidden));
  if (!panel.hidden) $("clipboard-text").focus();
});
$("clipboard-send").addEventListener("click", () => { rfb?.clipboardPasteFrom($("clipboard-text").value); rfb?.focus(); });
// A machine without a desktop takes no clipboard, but it takes keys.
$("clipboard-type").addEventListener("click", () => {
  type($("clipboard-text").value);
  rfb?.focus();
});
$("full-screen").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
});

function type(text) {
  for (const c of text) {
    if (c === "\r") continue;
    rfb?.sendKey(c === "\n" ? KeyTable.XK_Return : keysyms.lookup(c.codePointAt(0)), null);
  }
}

// A phone shows its keyboard for a field only, and tells what was typed by the field's text.
const keys = $("keys");
const blank = "\u200b".repeat(16); // something to delete
function clear() { keys.value = blank; keys.setSelectionRange(blank.length, blank.length); }
$("keyboard").addEventListener("click", () => { clear(); keys.focus(); });
keys.addEventListener("input", () => {
  const text = keys.value.replaceAll("\u200b", "");
  const deleted = blank.length - (keys.value.length - text.length);
  for (let i = 0; i < deleted; i++) rfb?.sendKey(KeyTable.XK_BackSpace, "Backspace");
  type(text);
  clear();
});

// A new link to the page that is open already changes nothing but what is behind the #.
addEventListener("hashchange", () => location.reload());

history.replaceState(null, "", location.pathname); // nobody copies a used link
connect();
