// The operations page: follows the group "operations", which receives every move and who watches.
import { connect } from "../fsm/static/fsm.js";

const find = (id) => document.getElementById(id);
const runs = new Map(); // the current page of each checkout, by its short name
let members = new Map(); // the name of each watching window

function element(tag, text, more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

function showMove({ run, source, target, at }) {
  runs.set(run, target);
  find("none").hidden = true;
  const when = new Date(at * 1000);
  const item = document.createElement("li");
  item.append(
    element("time", when.toLocaleTimeString(), { dateTime: when.toISOString() }),
    element("b", `Checkout ${run}`),
    element("span", `${source} → ${target}`),
  );
  find("moves").prepend(item);
  find("moves").children[50]?.remove();
  for (const cell of document.querySelectorAll("[data-page]")) {
    cell.textContent = [...runs.values()].filter((page) => page === cell.dataset.page).length;
  }
}

function showMembers() {
  const windows = new Map();
  for (const name of members.values()) windows.set(name, (windows.get(name) ?? 0) + 1);
  find("count").textContent = members.size;
  find("who").replaceChildren(
    ...[...windows].sort().map(([name, count]) =>
      element("li", count > 1 ? `${name}, in ${count} windows` : name)),
  );
}

const flow = connect("checkout", { groups: ["operations"] });
let changes = []; // joins and leaves while the list of members is being fetched

async function askMembers() {
  const since = (changes = []);
  const answer = await fetch("members");
  if (!answer.ok || since !== changes) return;
  members = new Map((await answer.json()).map(({ member, name }) => [member, name]));
  since.forEach(apply);
  showMembers();
}

function apply({ type, data: { member, name } }) {
  if (type === "join") members.set(member, name);
  else members.delete(member);
}

flow.on("group", (frame) => {
  if (frame.type === "message") showMove(frame.data);
  else if (frame.type === "gap") askMembers();
  else {
    changes.push(frame);
    apply(frame);
    showMembers();
  }
});

function tellLine(text, kind) {
  find("line").hidden = false;
  find("line").textContent = text;
  find("line").dataset.kind = kind;
}

flow.on("open", ({ transport }) => {
  tellLine(transport === "sse" ? "Live, by event stream" : "Live, by websocket", "open");
  askMembers();
});
flow.on("close", ({ final, reason }) => {
  tellLine(final ? `Disconnected. ${reason}` : "Reconnecting…", final ? "over" : "lost");
});
tellLine("Connecting…", "lost");
