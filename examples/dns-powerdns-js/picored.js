// What a handler needs beside its own logic: failures, config, text, and JSON over HTTP. Copy it; it has no dependency.
//
// It never retries and never follows a redirect: the one is the host's work, the other its rule. QuickJS brings no
// TextEncoder, URL, console or timers. An error of the host comes as an `Error` that has it as its `payload`, and an
// `Error` that leaves the component ends the run as a trap.

import cluster from "picored:handler/cluster@0.1.0";
import http from "picored:handler/http@0.1.0";
import store from "wasi:config/store@0.2.0-rc.1";
import logging from "wasi:logging/logging@0.1.0-draft";

/** Failures, to be thrown: tried again after the host's backoff, no sooner than that, or not again. */
export const retry = (reason) => ({ tag: "retry", val: reason });
export const retryAfter = (milliseconds, reason) => ({ tag: "retry-after", val: { milliseconds, reason } });
export const permanent = (reason) => ({ tag: "permanent", val: reason });
export const invalid = (key, problem) => permanent(`config key \`${key}\`: ${problem}`);

/** How a run ends that worked: whether it changed the world outside, and a line for the event log. */
export const outcome = (changed, text) => ({ changed, text, attributes: [] });

/** The component's export. Whatever `handle` throws that is no failure is a fault in it, and tried again. */
export function guest(describe, handle) {
  const failures = ["retry", "retry-after", "permanent"];
  return {
    describe,
    handle(event) {
      try {
        return handle(event);
      } catch (thrown) {
        if (failures.includes(thrown?.tag)) throw thrown;
        const what = thrown?.payload === undefined ? thrown : JSON.stringify(thrown.payload);
        throw retry(oneLine(`${what} ${thrown?.stack ?? ""}`));
      }
    },
  };
}

export const warn = (text) => logging.log("warn", "", text);

/** A value of the config, if it is there and not empty. */
export function optional(key) {
  try {
    return store.get(key) || undefined;
  } catch (error) {
    throw retry(`config key \`${key}\` could not be read: ${error.payload?.val}`);
  }
}

export function required(key) {
  const value = optional(key);
  if (value === undefined) throw permanent(`config key \`${key}\` is missing: set it in the handler's config`);
  return value;
}

export function number(key, otherwise, least, most) {
  const value = optional(key);
  if (value === undefined) return otherwise;
  const found = /^\d+$/.test(value.trim()) ? Number(value) : NaN;
  if (!(found >= least && found <= most)) throw invalid(key, `\`${value}\` is not a number from ${least} to ${most}`);
  return found;
}

/** The application to publish: the one that the config names, else the only one that this handler sees. */
export function app(key) {
  const [wanted, seen] = [optional(key), cluster.apps()];
  const list = seen.map((name) => `\`${name}\``).join(", ") || "none";
  if (wanted !== undefined) {
    if (seen.includes(wanted)) return wanted;
    throw invalid(key, `this handler does not see application \`${wanted}\`; it sees ${list}`);
  }
  if (seen.length === 0) throw permanent("this handler sees no application: grant it one");
  if (seen.length > 1) throw invalid(key, `is needed, since this handler sees ${list}`);
  return seen[0];
}

/**
 * Sends a request: `json` is its body, `headers` are pairs, both optional. The answer's text, if its status is 2xx;
 * anything else throws the failure that fits, an error of the host with its `kind`.
 */
export function send(method, url, { headers = [], json } = {}) {
  headers = [["user-agent", "picored-handler/0.1.0"], ["accept", "application/json"], ...headers];
  if (json !== undefined) headers.push(["content-type", "application/json"]);
  const body = json === undefined ? new Uint8Array() : encode(JSON.stringify(json));
  // The query is left out: it is long and may hold what is nobody's business.
  const subject = oneLine(`${method} ${url.replace(/[?#].*/s, "")}`);
  let response;
  try {
    response = http.fetch({ method, url, headers, body });
  } catch (error) {
    if (error.payload === undefined) throw error;
    const { kind, reason } = error.payload;
    const failure = ["denied", "invalid"].includes(kind) ? permanent : retry;
    throw { ...failure(`${subject}: ${kind}: ${oneLine(reason)}`), kind };
  }
  const { status } = response;
  if (status >= 200 && status < 300) return decode(response.body);
  const header = (wanted) => response.headers.find(([name]) => name === wanted)?.[1];
  const said = oneLine(decode(response.body.slice(0, 8 * LINE)));
  const [target, seconds] = [header("location"), header("retry-after")?.trim()];
  let reason = `${subject}: status ${status}`;
  if (status >= 300 && status < 400 && target !== undefined) {
    reason += `: redirects are not followed, and it points to ${oneLine(target)}`;
  } else if (said) {
    reason += `: ${said}`;
  }
  if ((status === 429 || status === 503) && /^\d+$/.test(seconds)) {
    // QuickJS hands the host no larger number, though the contract has room for twice as much.
    throw retryAfter(Math.min(seconds * 1000, 0x7fffffff), reason);
  }
  throw [408, 429].includes(status) || (status >= 500 && status < 600) ? retry(reason) : permanent(reason);
}

/** Fit for one segment of a path, and for a value in a query. */
export const encoded = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);

/** UTF-8. */
export function encode(text) {
  const bytes = encodeURIComponent(text.toWellFormed()).replace(/%(..)/g, (_, byte) => String.fromCharCode(`0x${byte}`));
  return Uint8Array.from(bytes, (byte) => byte.charCodeAt(0));
}

/** The same back. What is no UTF-8 becomes U+FFFD. */
export function decode(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.slice(at, at + 4096));
  return text.replace(/[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf]+/g, (sequence) => {
    try {
      return decodeURIComponent(sequence.replace(/./g, (byte) => `%${byte.charCodeAt(0).toString(16)}`));
    } catch {
      return "\ufffd";
    }
  });
}

/** So many characters of foreign text are worth repeating. */
const LINE = 200;

/** Foreign text as one line, cut to a length fit for a log. */
export function oneLine(text) {
  const words = text.slice(0, 8 * LINE).split(/[\s\x00-\x1f\x7f-\x9f]+/);
  const characters = [...words.filter((word) => word).join(" ")];
  return characters.length > LINE ? `${characters.slice(0, LINE).join("")}…` : characters.join("");
}
