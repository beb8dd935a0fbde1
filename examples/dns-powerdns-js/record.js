// What a name's A and AAAA records shall hold, computed from what they hold now: pure, without a provider in it.
//
// The wanted addresses replace every address that a member of the cluster ever claimed; all others are somebody else's
// and stay. An address is kept as hexadecimal digits, 8 or 32 of them: equal addresses are equal texts, in the order of
// addresses. A type that the application never had an address of is not touched at all.

import cluster from "picored:handler/cluster@0.1.0";
import { permanent, retry } from "./picored.js";

/** The two record types that hold addresses, and how many digits those have. */
export const FAMILIES = [
  { type: "A", digits: 8 },
  { type: "AAAA", digits: 32 },
];

/** An IP address out of its text; undefined if it is none. */
export function parse(text) {
  const colon = text.lastIndexOf(":");
  if (colon < 0) return parseV4(text);
  let groups = text;
  if (text.includes(".")) {
    const last = parseV4(text.slice(colon + 1)) ?? "?";
    groups = `${text.slice(0, colon)}:${last.slice(0, 4)}:${last.slice(4)}`;
  }
  const halves = groups.split("::").map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - halves.flat().length;
  if (halves.length > 2 || (halves.length === 2 ? missing < 1 : missing !== 0)) return undefined;
  const all = halves.length === 2 ? [...halves[0], ...Array(missing).fill("0"), ...halves[1]] : halves[0];
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined;
  return all.map((group) => group.toLowerCase().padStart(4, "0")).join("");
}

function parseV4(text) {
  const bytes = text.split(".");
  if (bytes.length !== 4 || !bytes.every((byte) => /^(0|[1-9]\d{0,2})$/.test(byte) && byte < 256)) return undefined;
  return bytes.map((byte) => Number(byte).toString(16).padStart(2, "0")).join("");
}

/** An address as text, in the one spelling that RFC 5952 allows. */
export function show(address) {
  if (address.length === 8) return address.match(/../g).map((byte) => parseInt(byte, 16)).join(".");
  if (/^0{20}ffff/.test(address)) return `::ffff:${show(address.slice(24))}`;
  const text = address.match(/..../g).map((group) => parseInt(group, 16).toString(16)).join(":");
  const zeros = [...text.matchAll(/\b0(:0)+\b/g)].sort((one, other) => other[0].length - one[0].length)[0];
  if (!zeros) return text;
  const [before, after] = [text.slice(0, zeros.index), text.slice(zeros.index + zeros[0].length)];
  return `${before.replace(/:$/, "")}::${after.replace(/^:/, "")}`;
}

export const list = (addresses) => addresses.map(show).join(" ");
export const without = (addresses, others) => addresses.filter((address) => !others.includes(address));
const sorted = (addresses) => [...new Set(addresses)].sort();

/** Reads the value of a record of that type. */
export function value(family, text) {
  const address = parse(text);
  if (address?.length === family.digits) return address;
  throw permanent(`\`${text}\` stands in a record of type ${family.type}: mend that first`);
}

/** The addresses of an application to publish, and all that its members ever claimed. Never none. */
export function wanted(app) {
  let set;
  try {
    set = cluster.endpoints(app);
  } catch (error) {
    throw retry(`application \`${app}\`: ${error.payload}`);
  }
  if (set.endpoints.length === 0) throw retry("there is no endpoint to publish: the record stays as it is");
  const read = (text) => {
    const address = parse(text);
    if (address === undefined) throw permanent(`the endpoint \`${text}\` is no IP address`);
    return address;
  };
  const claims = set.attributes.filter(([key]) => key === "claimed");
  return {
    published: sorted(set.endpoints.map((endpoint) => read(endpoint.address))),
    claimed: claims.map(([, address]) => read(address)),
  };
}

/**
 * What becomes of the record of one family. `current` is what it is now, as `{ values, ttl }`; `withheld` are addresses
 * neither to be published nor ours where the record holds them. Nothing, if the application never had any of that
 * family.
 */
export function plan(wanted, family, current, ttl, withheld) {
  const among = (addresses) => without(addresses, withheld).filter((address) => address.length === family.digits);
  const [published, claimed] = [among(wanted.published), among(wanted.claimed)];
  if (published.length + claimed.length === 0) return undefined;
  const standing = sorted(current.values);
  const foreign = without(standing, [...published, ...claimed]);
  const values = sorted([...published, ...foreign]);
  const [added, removed] = [without(values, standing), without(standing, values)];
  // A record that holds nothing of ours is not ours to set the time of.
  const time = published.length === 0 ? current.ttl : ttl;
  const isSameTime = time === current.ttl || values.length === 0;
  const isSame = added.length === 0 && removed.length === 0 && isSameTime;
  const change = isSame ? "none" : values.length === 0 ? "delete" : "replace";
  const notes = [
    change === "none" && "unchanged",
    added.length > 0 && `added ${list(added)}`,
    removed.length > 0 && `removed ${list(removed)}`,
    foreign.length > 0 && `kept foreign ${list(foreign)}`,
    change === "replace" && standing.length > 0 && time !== current.ttl && `ttl ${current.ttl} to ${time}`,
  ];
  const text = `${family.type}: ${list(published) || "none"} (${notes.filter((note) => note).join("; ")})`;
  return { change, values, ttl: time, text };
}
