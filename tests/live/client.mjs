// Runs fsm.js for a test: a command comes as a line of JSON, what happens goes out as one.
//
// Usage: node client.mjs <path of fsm.js>
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const report = (kind, what = {}) => console.log(JSON.stringify({ kind, ...what }));
const known = (error) => ({ ...error, message: error.message });

// A test wants to know how long the client would wait before it comes back, and not to wait that
// long itself. What is waited for is not hurried.
let hurried = false;
const patience = new Set([10_000]);
const setTimer = globalThis.setTimeout;
globalThis.setTimeout = (callback, delay, ...rest) => {
  const ours = new Error().stack.includes("/fsm.js:");
  if (!ours || patience.has(delay)) return setTimer(callback, delay, ...rest);
  report("timer", { delay });
  return setTimer(callback, hurried ? Math.min(delay, 5) : delay, ...rest);
};

const { connect } = await import(pathToFileURL(process.argv[2]).href);
let flow, more = {};

const commands = {
  /** Connect, and report what listeners are told. */
  connect({ machine, options }) {
    flow = connect(machine, { ...options, ...more });
    for (const kind of ["state", "data", "group"]) flow.on(kind, (frame) => report(kind, { frame }));
    for (const kind of ["open", "close"]) flow.on(kind, (told) => report(kind, told));
    flow.on("error", (error) => report("error", known(error)));
  },
  /** Send an event, and report how it ends. */
  send({ as, event, data, options }) {
    patience.add(options.timeout);
    flow.send(event, data, options).then(
      (frame) => report("answer", { as, frame, state: flow.state, rev: flow.rev }),
      (error) => report("refusal", { as, ...known(error) }),
    );
  },
  /** Send an event, and leave it at that. */
  forget: ({ event, data }) => void flow.send(event, data),
  /** Send this cookie with whatever is asked for, as a browser would; Node keeps none. */
  async cookie({ value }) {
    await fetch("data:,"); // what all requests go through is not there before the first one
    const places = Object.getOwnPropertySymbols(globalThis)
      .filter((place) => place.description.startsWith("undici.globalDispatcher."));
    for (const place of places) {
      const dispatcher = globalThis[place];
      globalThis[place] = {
        dispatch: (asked, handler) =>
          dispatcher.dispatch({ ...asked, headers: { ...asked.headers, cookie: value } }, handler),
      };
    }
  },
  look({ event }) {
    const { state, events, rev, connected } = flow;
    report("look", { state, events, rev, connected, can: flow.can(event) });
  },
  /** Add a listener that raises and one that ends itself at once. */
  disturb({ on }) {
    flow.on(on, () => { throw new Error("A listener's fault."); });
    const off = flow.on(on, () => report("unheard"));
    off();
  },
  close: () => flow.close(),
  /** Connect by a WebSocket that was handed over, from now on. */
  own_socket: () => void (more = { WebSocket: class extends WebSocket {} }),
  /** From now on connect by a WebSocket that fires `error` and then nothing. */
  mute_socket() {
    more = { WebSocket: class { constructor() { queueMicrotask(() => this.onerror({})); } close() {} } };
  },
  /** From now on the dice fall like this. */
  dice: ({ value }) => void (Math.random = () => value),
  /** From now on nothing waits before it comes back. */
  hurry: () => void (hurried = true),
  /** This long a delay is waited for. */
  patient: ({ value }) => void patience.add(value),
  /** Report what connect() raises without a class to connect with. */
  lack({ options }) {
    try {
      connect("traffic", options).close();
    } catch (error) {
      report("lack", { name: error.name, message: error.message });
    }
  },
};

process.on("unhandledRejection", (error) => report("unhandled", known(error)));
console.error = (error) => report("console", { message: String(error) });
for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...more } = JSON.parse(line);
  await commands[name](more);
}
process.exit();
