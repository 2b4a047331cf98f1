// @ts-check
/**
 * The client of flask_fsm: a flow as live events, in a page or in a program.
 *
 *     import { connect } from "/fsm/static/fsm.js";
 *     const flow = connect("traffic");
 *     flow.on("state", (frame) => show(frame.state, frame.events));
 *     await flow.send("change_to_green");
 *
 * It opens a websocket; where only HTTP gets through, it reads an event stream and posts its
 * events. A lost connection is reopened, and continues after the last frame that was received.
 *
 * @typedef {{status: number, data?: any, state?: string, events?: string[], rev?: number,
 *   ref?: any, id?: string, gap?: boolean, group?: string, type?: string}} Frame
 *
 * @typedef {object} Options
 * @property {string} [origin] scheme, host and port of the server; by default the page's own
 * @property {string} [prefix] the path of FSM_URL_PREFIX; by default where this module comes from
 * @property {string} [path] the path of the websocket, if the app serves it under its own
 * @property {string[]} [groups] the groups to join
 * @property {Record<string, string>} [query] more query arguments, such as `{flow: "4711"}`
 * @property {"auto" | "websocket" | "sse"} [transport]
 * @property {boolean} [reload] false: a page from the back/forward cache is not reloaded
 * @property {any} [WebSocket] this and the next two replace the global ones; a WebSocket that
 *   authenticates needs a `fetch` that does, too, or the reasons of refusals are not looked up
 * @property {any} [EventSource]
 * @property {typeof globalThis.fetch} [fetch]
 *
 * @typedef {object} Item an event that has no answer yet
 * @property {number} ref
 * @property {string} text
 * @property {boolean} sent
 * @property {(frame: Frame | FSMError) => void} settle
 * @property {AbortController} over aborted once it is settled
 *
 * @typedef {{status: number, body: any}} Answer an HTTP response; the status is 0 if none came
 *
 * @typedef {{send(item: {text: string, over?: AbortController}): Promise<Answer> | void,
 *   close(): void}} Line a connection, or an attempt at one
 *
 * @typedef {Line & {kind: "websocket" | "sse", heard: boolean, doubt(): void}} Attempt `heard`: a
 *   frame came; `doubt`: leave it unless it answers
 *
 * @typedef {object} Ends the callbacks of a line
 * @property {() => void} open
 * @property {(text: string) => void} text
 * @property {(code: number, reason?: string) => void} lost
 */

/**
 * Returns whether reconnecting is pointless after this close code. Those from 4400 on correspond
 * to client errors of HTTP. @param {number} code
 */
const isFinal = (code) => FINAL.has(code) || (code >= 4400 && code < 4500);
/** 4501: the server has no websockets, and this client can't use anything else. */
const FINAL = new Set([1008, 1009, 1011, 4501]);
/** Close codes that disconnect many clients at once, which therefore reconnect more slowly. */
const CROWDED = new Set([1012, 1013]), CROWDED_ATTEMPT = 3;
const ABNORMAL = 1006;
/** Milliseconds; full jitter, as in "Exponential Backoff And Jitter", AWS Architecture Blog. */
const BASE = 500, CAP = 30_000;
/** Number of websockets that fail where HTTP does not, before the event stream is used. */
const STRIKES = 2;
/** HTTP status where a websocket would be accepted, and where the server has none. */
const UPGRADE_REQUIRED = 426, NOT_IMPLEMENTED = 501;
/** HTTP statuses that are final. Others may be temporary, or those of a proxy. */
const REFUSALS = new Set([400, 401, 403, 404, 410]);
/**
 * A websocket is asked by a frame that names no event, which the server answers at once. Other refs
 * begin with 1. A page that was hidden for AWAY milliseconds asks, and waits DOUBT for the answer.
 */
const ASK_REF = 0, ASK = JSON.stringify({ ref: ASK_REF }), AWAY = 30_000, DOUBT = 5_000;
/** What is to be said of an event that was sent and got no answer. */
const UNKNOWN = "The event may or may not have been handled.";
/** Milliseconds after which an unanswered event or an unopened connection fails. */
const PATIENCE = 10_000;

/**
 * An event was refused or not sent, or the connection has ended for good (`code`: its close code).
 * `reason` is the server's, or `connection_lost` or `timeout` (the event was sent, and may or may
 * not have been handled), `not_sent`, `closed`.
 */
export class FSMError extends Error {
  name = "FSMError";

  /** @param {string} reason @param {string} message @param {{frame?: any, code?: number}} [more] */
  constructor(reason, message, { frame, code } = {}) {
    super(message);
    this.reason = reason;
    this.frame = frame;
    this.status = frame?.status;
    this.data = frame?.data;
    this.code = code;
  }

  /** @param {any} frame a frame that refuses, or the problem document of an HTTP response */
  static of(frame) {
    const { reason = frame.reason, message = frame.detail ?? frame.title } = frame.data ?? {};
    return new FSMError(reason ?? "error", message ?? `The server answered with status ${frame.status}.`, { frame });
  }
}

/** @param {string} text @returns {any} the object that the JSON text stands for, else null */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/**
 * Compares two positions, each `<epoch>-<offset>`; above 0: `at` is newer than `seen`.
 * @param {string} at @param {string} [seen]
 */
function compared(at, seen = "") {
  const cut = at.lastIndexOf("-") + 1;
  if (!cut || at.slice(0, cut) !== seen.slice(0, cut)) return at === seen ? 0 : 1;
  return Number(at.slice(cut)) - Number(seen.slice(cut));
}

/**
 * Makes an HTTP request.
 * @param {typeof globalThis.fetch} fetch @param {string} url @param {RequestInit} [more]
 * @returns {Promise<Answer>}
 */
async function ask(fetch, url, more) {
  try {
    const signal = more?.signal ?? AbortSignal.timeout(PATIENCE);
    const init = { credentials: "include", cache: "no-store", ...more, signal };
    const response = await fetch(url, /** @type {RequestInit} */ (init));
    const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
    if (isStream) response.body?.cancel();
    return { status: response.status, body: isStream ? null : parsed(await response.text()) };
  } catch {
    return { status: 0, body: null };
  }
}

/**
 * Returns the close code for a refusal by HTTP. One without a reason may be from a proxy, whose
 * server is down or which limits rates; but 401 is how apps ask a visitor to log in.
 * @param {Answer} answer
 */
function codeOf({ status, body }) {
  const ours = status === 401 || typeof body?.reason === "string";
  return ours && REFUSALS.has(status) ? 4000 + status : ABNORMAL;
}

/** @param {any} WebSocket @param {string} url @param {Ends} ends @returns {Line} */
function socketLine(WebSocket, url, ends) {
  const socket = new WebSocket(url.replace(/^http/, "ws"));
  let opened = false;
  socket.onopen = () => {
    opened = true;
    ends.open();
  };
  socket.onmessage = (/** @type {MessageEvent} */ event) => ends.text(event.data);
  socket.onclose = (/** @type {CloseEvent} */ event) => ends.lost(event.code, event.reason);
  // After it opened, `close` follows with a code. In Node an error without a listener is fatal.
  socket.onerror = () => void (opened || ends.lost(ABNORMAL));
  return { send: ({ text }) => socket.send(text), close: () => socket.close() };
}

/**
 * @param {any} EventSource @param {typeof globalThis.fetch} fetch @param {Ends} ends
 * @param {string} url @param {string} target where events are posted to @returns {Line}
 */
function streamLine(EventSource, fetch, ends, url, target) {
  const source = new EventSource(url, { withCredentials: true });
  source.onopen = ends.open;
  for (const name of ["state", "data", "group"]) {
    // Not `lastEventId`, which is that of an earlier event if this one has no id.
    source.addEventListener(name, (/** @type {MessageEvent} */ event) => ends.text(event.data));
  }
  source.onerror = async () => {
    // An EventSource reconnects without jitter, and never after a status other than 200, which it
    // does not reveal: so the status is requested separately.
    const refused = source.readyState === 2;
    source.close();
    if (!refused) return ends.lost(ABNORMAL);
    const answer = await ask(fetch, url);
    ends.lost(codeOf(answer), answer.body?.detail);
  };
  const post = { method: "POST", headers: { "Content-Type": "application/json" } };
  return {
    send: ({ text: body, over }) => ask(fetch, target, { ...post, body, signal: over?.signal }),
    close: () => source.close(),
  };
}

/** A flow on the server, as far as this client knows it. */
export class Flow {
  /** The current state; null until the first frame. @type {string | null} */ state = null;
  /** The events that may be sent now. @type {string[]} */ events = [];
  /** The number of transitions of the flow. @type {number | null} */ rev = null;
  connected = false;
  /** @type {Options & {fetch: typeof globalThis.fetch, transport: "auto" | "websocket" | "sse"}} */
  #options;
  /** @type {(what: string, more?: Record<string, string | string[]>, path?: string) => string} */
  #url;
  /** @type {Map<string, Set<(what: any) => void>>} */ #listeners = new Map();
  /** Events without an answer. @type {Map<number, Item>} */ #items = new Map();
  /** Those of them that were not sent. @type {Item[]} */ #waiting = [];
  #sending = false;
  #refs = 0;
  /** @type {Attempt | null} */ #line = null;
  /** Consecutive websockets that failed where HTTP did not. */ #strikes = 0;
  /** Whether `fetch` may lack the credentials of the websocket. @type {boolean} */ #anonymous;
  /** Consecutive failures. */ #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** When the page was hidden; 0 while it is visible. */ #hiddenAt = 0;
  /** Aborted once this has ended. */ #end = new AbortController();
  /** The id of the last frame that was received: a position in each channel. */ #seen = "";
  /** The rev of the last state frame. */ #lastRev = -1;
  /** The rev in the answer to a POST that has not come by the stream yet. */ #ahead = 0;

  /** @param {string} machine @param {Options} options */
  constructor(machine, options) {
    const served = /^https?:\/\/[^/]+(.*)\/static\/fsm\.js/.exec(import.meta.url)?.[1];
    const { origin = globalThis.location?.origin, prefix = served ?? "/fsm" } = options;
    const { WebSocket, EventSource } = globalThis;
    const fetch = globalThis.fetch?.bind(globalThis);
    const transport = options.transport ?? "auto";
    if (!["auto", "websocket", "sse"].includes(transport)) {
      throw new TypeError(`connect() has the transports "auto", "websocket" and "sse", not "${transport}".`);
    }
    this.#options = { WebSocket, EventSource, fetch, ...options, transport };
    this.#anonymous = Boolean(options.WebSocket && !options.fetch);
    const { WebSocket: Socket, EventSource: Source } = this.#options;
    if (!(transport !== "sse" && Socket) && !(transport !== "websocket" && Source)) {
      throw new TypeError("connect() needs WebSocket or EventSource, which are not defined here.");
    }
    this.#url = (what, more, path) => {
      const url = new URL(path || `${prefix}/${encodeURIComponent(machine)}/${what}`, origin);
      for (const [name, values] of Object.entries({ ...options.query, ...more })) {
        for (const value of [values].flat()) url.searchParams.append(name, value);
      }
      return url.href;
    };
    const { window, document } = globalThis, { signal } = this.#end;
    for (const [target, name] of /** @type {[EventTarget, string][]} */ ([
      [window, "online"], [window, "pageshow"], [document, "visibilitychange"],
    ])) {
      target?.addEventListener(name, (event) => this.#wake(event), { signal });
    }
    if (document?.visibilityState === "hidden") this.#hiddenAt = Date.now();
    // A page from the back/forward cache shows an old state, also if it was closed before.
    if (options.reload ?? true) {
      window?.addEventListener("pageshow", (event) => event.persisted && location.reload());
    }
    this.#open();
  }

  /** Returns whether this event may be sent now. @param {string} event */
  can(event) {
    return this.events.includes(event);
  }

  /**
   * Sends an event as soon as there is a connection, and never twice. The promise resolves with the
   * first frame of the answer, or rejects with an FSMError. It need not be awaited, since refusals
   * are also reported by "error".
   * @param {string} event @param {any} [data]
   * @param {{rev?: number, timeout?: number}} [options] `rev`: refuse the event if the flow is at
   *   another one; `timeout`: milliseconds within which it must be sent and answered
   * @returns {Promise<Frame>}
   */
  send(event, data = null, { rev, timeout = PATIENCE } = {}) {
    const ref = ++this.#refs;
    const promise = new Promise((resolve, reject) => {
      const text = JSON.stringify({ event, data, ref, rev });
      if (this.#end.signal.aborted) throw new FSMError("closed", "The connection has ended.");
      const timer = setTimeout(() => {
        item.settle(item.sent
          ? new FSMError("timeout", `The event was not answered in time. ${UNKNOWN}`)
          : new FSMError("not_sent", "The event could not be sent in time."));
        if (item.sent) this.#line?.doubt();
      }, timeout);
      const over = new AbortController();
      /** @type {Item["settle"]} */
      const settle = (outcome) => {
        clearTimeout(timer);
        this.#items.delete(ref);
        if (outcome instanceof FSMError) reject(outcome);
        else if (outcome.status >= 400) reject(FSMError.of(outcome));
        else resolve(outcome);
        over.abort();
      };
      const item = { ref, text, sent: false, settle, over };
      this.#items.set(ref, item);
      this.#waiting.push(item);
      this.#flush();
    });
    promise.catch(() => {});
    return promise;
  }

  /**
   * Calls `listener` with each frame of a kind ("state", "data", "group"), with an FSMError
   * ("error"), or on a connection ("open": `{transport}`, "close": `{code, reason, final}`).
   * @param {"state" | "data" | "group" | "error" | "open" | "close"} what
   * @param {(value: any) => void} listener @returns {() => void} a function that removes it
   */
  on(what, listener) {
    const own = (/** @type {any} */ value) => listener(value);
    this.#listeners.set(what, (this.#listeners.get(what) ?? new Set()).add(own));
    return () => void this.#listeners.get(what)?.delete(own);
  }

  /** Ends the connection for good. */
  close() {
    if (!this.#end.signal.aborted) this.#finish(1000, "The flow was closed.");
  }

  // -- the connection ---------------------------------------------------------------------------

  get #groups() {
    return { group_id: this.#options.groups ?? [] };
  }

  #open() {
    const { transport, WebSocket, EventSource, fetch, path } = this.#options;
    const best = !EventSource || (WebSocket && this.#strikes < STRIKES) ? "websocket" : "sse";
    const kind = transport === "auto" ? best : transport;
    const more = { ...this.#groups, ...(this.#seen && { since: this.#seen }) };
    /** @type {Line | undefined} */
    let opened;
    /** @type {Attempt} */
    const line = this.#line = {
      kind,
      heard: false,
      send: (item) => opened?.send(item),
      close: () => {
        this.#line = null;
        trust();
        opened?.close();
      },
      // A connection that is dead, as after sleep or behind a NAT, may stay open without an event.
      doubt: () => {
        if (patience) return;
        if (kind === "sse") return ends.lost(ABNORMAL, "The stream may be dead."); // can't be asked
        opened?.send({ text: ASK });
        patience = setTimeout(ends.lost, DOUBT, ABNORMAL, "The connection does not answer.");
      },
    };
    const trust = () => {
      clearTimeout(patience);
      patience = undefined;
    };
    /** @type {Ends} */
    const ends = {
      open: () => {
        if (this.#line !== line) return;
        if (kind === "sse") trust();
        this.connected = true;
        this.#emit("open", { transport: kind });
        this.#flush();
      },
      text: (text) => {
        const frame = parsed(text);
        if (this.#line !== line || !frame) return;
        // Not when it opens: a connection counts only once something has come through.
        trust();
        line.heard = true;
        this.#attempt = 0;
        if (kind === "websocket") this.#strikes = 0;
        if (frame.ref !== ASK_REF) this.#receive(frame);
      },
      lost: (code, reason) => void (this.#line === line && this.#lost(code, reason)),
    };
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let patience = setTimeout(ends.lost, PATIENCE, ABNORMAL, "It took too long to open.");
    const url = kind === "sse" ? this.#url("events", more) : this.#url("ws", more, path);
    try {
      opened = kind === "sse"
        ? streamLine(EventSource, fetch, ends, url, this.#url("event"))
        : socketLine(WebSocket, url, ends);
    } catch (error) {
      ends.lost(ABNORMAL, String(error)); // not supported here, or forbidden by the page
    }
  }

  /** @param {number} code @param {string} [reason] */
  async #lost(code, reason = "") {
    if (isFinal(code)) return this.#finish(code, reason);
    const { connected } = this, line = this.#line;
    this.connected = false;
    line?.close();
    // Events that were posted may still be answered.
    if (line?.kind === "websocket") {
      this.#fail("connection_lost", `The connection was lost. ${UNKNOWN}`, true);
    }
    if (connected) this.#emit("close", { code, reason, final: false });
    if (line?.kind === "sse") this.#strikes = STRIKES - 1; // another network may allow it
    else if (line && !line.heard && !CROWDED.has(code)) await this.#askWhy();
    if (this.#line || this.#end.signal.aborted) return;
    if (CROWDED.has(code)) this.#attempt = Math.max(this.#attempt, CROWDED_ATTEMPT);
    const longest = Math.min(CAP, BASE * 2 ** this.#attempt++);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#retry(), Math.random() * longest);
  }

  /** Asks why a websocket did not open, since browsers do not reveal whether it was refused. */
  async #askWhy() {
    const { fetch, transport, EventSource } = this.#options;
    if (this.#anonymous) return;
    const answer = await ask(fetch, this.#url("ws", this.#groups)), { status, body } = answer;
    if (this.#line || this.#end.signal.aborted) return;
    const stream = transport === "auto" && EventSource, code = codeOf(answer);
    if (status === UPGRADE_REQUIRED) {
      if (body?.reason !== "websocket_only") this.#strikes += 1; // a proxy may forbid it
    } else if (status === NOT_IMPLEMENTED && body?.reason === "no_socket") {
      if (stream) this.#strikes = STRIKES;
      else this.#finish(4000 + status, body.detail);
    } else if (code !== ABNORMAL) this.#finish(code, body?.detail ?? "");
  }

  /** @param {number} code @param {string} reason */
  #finish(code, reason) {
    this.#end.abort();
    this.connected = false;
    clearTimeout(this.#timer);
    this.#line?.close();
    const message = reason || `The server has ended the connection for good (${code}).`;
    this.#fail("connection_lost", `${message} ${UNKNOWN}`, true);
    this.#fail("closed", message, false);
    if (isFinal(code)) this.#emit("error", new FSMError("closed", message, { code }));
    this.#emit("close", { code, reason, final: true });
  }

  #retry() {
    clearTimeout(this.#timer);
    if (!this.#line && !this.#end.signal.aborted) this.#open();
  }

  /** @param {Event} event the page is shown or hidden, or the network is back */
  #wake(event) {
    // A connection from before the network was lost may be dead without an event.
    if (event.type === "online" && this.#line) this.#lost(ABNORMAL, "The network connection was lost.");
    if (document.visibilityState === "hidden") {
      this.#hiddenAt ||= Date.now();
      return;
    }
    const away = this.#hiddenAt && Date.now() - this.#hiddenAt;
    this.#hiddenAt = 0;
    this.#retry();
    const { persisted } = /** @type {PageTransitionEvent} */ (event);
    if (away >= AWAY || persisted) this.#line?.doubt();
  }

  // -- sending events ---------------------------------------------------------------------------

  async #flush() {
    if (this.#sending) return;
    this.#sending = true;
    // One POST at a time, so that events arrive in the order in which they were sent.
    for (let item; this.connected && (item = this.#waiting.shift()); ) {
      if (!this.#items.has(item.ref)) continue;
      item.sent = true;
      const answer = this.#line?.send(item);
      if (answer) this.#answered(item, await answer);
    }
    this.#sending = false;
  }

  /** @param {string} reason @param {string} message @param {boolean} sent which events fail */
  #fail(reason, message, sent) {
    for (const item of this.#items.values()) {
      if (item.sent === sent) item.settle(new FSMError(reason, message));
    }
  }

  /** @param {Item} item @param {Answer} answer; what all clients get comes by the stream, too */
  #answered(item, { status, body }) {
    if (typeof body?.status !== "number") {
      return item.settle(new FSMError("connection_lost", `The answer was lost. ${UNKNOWN}`));
    }
    const frames = (Array.isArray(body.frames) ? body.frames : [body]).filter(Boolean);
    for (const frame of frames) {
      if (typeof frame.state !== "string" || frame.rev <= (this.rev ?? -1)) continue;
      this.#adopt(frame);
      this.#ahead = frame.rev;
    }
    if (status >= 400) this.#emit("error", FSMError.of(body));
    this.#items.get(item.ref)?.settle(frames[0] ?? body);
  }

  // -- receiving frames -------------------------------------------------------------------------

  /** @param {Frame} frame */
  #receive(frame) {
    if (this.#isNews(frame)) {
      if (typeof frame.state === "string") this.#catchUp(frame);
      if (typeof frame.group === "string") this.#emit("group", frame);
      else if (typeof frame.state === "string") this.#emit("state", frame);
      else if (frame.status >= 400) this.#emit("error", FSMError.of(frame));
      else if (typeof frame.status === "number" && frame.status !== 202) this.#emit("data", frame);
    }
    this.#items.get(frame.ref)?.settle(frame);
  }

  /** Returns whether a frame is new, and remembers its id. @param {Frame} frame */
  #isNews(frame) {
    if (typeof frame.id !== "string") return true;
    const now = frame.id.split(","), seen = this.#seen.split(",");
    const steps = now.map((at, place) => compared(at, seen[place]));
    const anew = frame.gap === true || now.length !== seen.length;
    this.#seen = now.map((at, place) => (anew || steps[place] > 0 ? at : seen[place])).join(",");
    // A client that joins gets the state, which may be newer than what the channel has delivered.
    const ahead = frame.state && (frame.state !== this.state || frame.rev !== this.rev);
    return anew || steps.some((step) => step > 0) || (ahead && steps.every((step) => step === 0));
  }

  /** Adopts a state, unless the answer to a POST had a newer one. @param {Frame} frame */
  #catchUp(frame) {
    const rev = frame.rev ?? 0;
    // A rev that has not grown belongs to a new run.
    if (frame.gap || rev >= this.#ahead || rev <= this.#lastRev) this.#ahead = 0;
    this.#lastRev = rev;
    if (!this.#ahead) this.#adopt(frame);
  }

  /** @param {Frame} frame a state frame */
  #adopt(frame) {
    this.state = frame.state ?? null;
    this.events = Array.isArray(frame.events) ? frame.events : [];
    this.rev = frame.rev ?? null;
  }

  /** @param {string} what @param {any} value */
  #emit(what, value) {
    for (const listener of [...(this.#listeners.get(what) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        console.error(error); // an error in one listener does not affect the others
      }
    }
  }
}

/**
 * Connects to the flow of a machine, and stays connected until `close()`.
 * @param {string} machine the machine's name @param {Options} [options]
 */
export function connect(machine, options = {}) {
  return new Flow(machine, options);
}
