// The traffic light: shows the state of the flow, and sends the events of its buttons.
import { connect } from "../fsm/static/fsm.js";

const form = document.getElementById("press");
const buttons = [...form.querySelectorAll("button")];
const flow = connect("light");
const sending = new Set(); // events sent by this window that have no answer yet
const own = new Set(); // the revs that they led to

function say(text) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  item.append(time, text);
  const log = document.getElementById("log");
  log.prepend(item);
  log.children[30]?.remove();
}

/** Says what has become of an event that got no answer, or was refused. */
function outcomeOf({ reason, message }) {
  if (["connection_lost", "timeout"].includes(reason)) return message; // says that it is not known
  if (["not_sent", "closed"].includes(reason)) return `The event was not sent. ${message}`;
  return `The event was refused. ${message}`;
}

function show() {
  if (flow.state) {
    document.getElementById("state").textContent = flow.state;
    document.querySelector(".signal").dataset.state = flow.state;
  }
  for (const button of buttons) {
    // Not `disabled`: the button just pressed would lose the focus.
    button.disabled = button.hidden = false;
    button.setAttribute("aria-disabled", String(!flow.connected || !flow.can(button.value)));
  }
}

function tellLine(text, kind) {
  const line = document.getElementById("line");
  line.hidden = false;
  line.textContent = text;
  line.dataset.kind = kind;
  show();
}

let known = null; // the rev of the last state shown
flow.on("state", async ({ state, rev, gap }) => {
  show();
  const first = known === null;
  known = rev;
  await Promise.allSettled(sending); // one of them may have caused this state
  if (first) say(`The light is ${state}.`);
  else if (gap) say(`This window was away for a while. The light is ${state} now.`);
  else say(`${own.has(rev) ? "You" : "Another window"} changed the light to ${state}.`);
});
flow.on("data", ({ data }) => say(`The light says: ${data}.`));
flow.on("open", ({ transport }) => {
  tellLine(transport === "sse" ? "Live, by event stream" : "Live, by websocket", "open");
  if (known !== null) say("Connected again.");
});
flow.on("close", ({ final, reason }) => {
  say("The connection was lost.");
  tellLine(final ? `Disconnected. ${reason}` : "Reconnecting…", final ? "over" : "lost");
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (event.submitter.getAttribute("aria-disabled") === "true") return;
  const sent = flow.send(event.submitter.value);
  sending.add(sent);
  try {
    const { rev } = await sent;
    if (rev !== undefined) own.add(rev);
  } catch (error) {
    say(outcomeOf(error));
  } finally {
    sending.delete(sent);
  }
});

document.getElementById("events").hidden = false;
tellLine("Connecting…", "lost");
