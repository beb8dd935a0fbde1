// The handler `dns-powerdns` once more, in JavaScript: keeps the A and AAAA records of one name in PowerDNS equal to the
// addresses that are up. It reads the same config as `builtin:dns-powerdns`, sends the same requests and says the same.
//
// Every run reads the records, and writes the whole of what differs in one request: which event it was does not matter.
// A record that the operator has disabled is written back as it was, since PowerDNS replaces all of a type at once. The
// API key is the host's to add.

import { app, encoded, guest as exported, invalid, number, optional, outcome, permanent } from "./picored.js";
import { required, retry, send, warn } from "./picored.js";
import { FAMILIES, list, parse, plan, show, value, wanted } from "./record.js";

const ZONE_URL = "{api}/api/v1/servers/{server}/zones/{zone}";
const WANTS = [
  ["event", "member-*", "A member that comes or goes changes what is published"],
  ["event", "app-*", "So does an application that goes up or down"],
  ["event", "reconcile", "Repairs a record that somebody else changed"],
  ["cluster", "endpoints", "The addresses to publish"],
  ["http", `GET ${ZONE_URL}`, "Reads the records"],
  ["http", `PATCH ${ZONE_URL}`, "Replaces those that differ"],
  ["secret", "header", "PowerDNS's API key, as X-API-Key"],
  ["config", "api", "PowerDNS's address, such as http://127.0.0.1:8081"],
  ["config", "zone", "The zone, such as example.org."],
  ["config", "record", "The full name in it, such as www.example.org."],
  ["config", "ttl", "Optional: seconds that resolvers may keep the record, 1 to 86400; default 60"],
  ["config", "server", "Optional: PowerDNS's name for its server; default localhost"],
  ["config", "app", "Needed if the handler sees several applications: the one to publish"],
];

function describe() {
  return {
    name: "dns-powerdns-js",
    version: "0.1.0",
    summary: "Keeps a name's A and AAAA records in PowerDNS equal to the addresses that are up",
    wants: WANTS.map(([kind, value, reason]) => ({ kind, value, reason })),
    attributes: [],
  };
}

function handle() {
  const [zone, record] = [canonical(required("zone")), canonical(required("record"))];
  if (zone === "." || !`.${record}`.endsWith(`.${zone}`)) {
    throw invalid("record", `\`${record}\` does not lie in zone \`${zone}\`: write the full name`);
  }
  const ttl = number("ttl", 60, 1, 86400);
  const url = zoneUrl(zone);
  const target = wanted(app("app"));

  let found = read(zone, record, send("GET", `${url}?rrset_name=${encoded(record)}`));
  let update = compare(record, found, target, ttl);
  if (update.rrsets.length > 0 && (found = whole(zone, record, url))) update = compare(record, found, target, ttl);
  if (update.rrsets.length === 0) return outcome(false, update.text);
  send("PATCH", url, { json: { rrsets: update.rrsets } });
  return outcome(true, update.text);
}

export const guest = exported(describe, handle);

/** A domain name as PowerDNS writes it. */
const canonical = (name) => `${name.trim().replace(/\.+$/, "").replace(/[A-Z]/g, (letter) => letter.toLowerCase())}.`;

function zoneUrl(zone) {
  const api = required("api");
  if (!/^https?:\/\//.test(api)) throw invalid("api", `\`${api}\` does not begin with http:// or https://`);
  const server = optional("server") ?? "localhost";
  return `${api.replace(/\/+$/, "")}/api/v1/servers/${encoded(server)}/zones/${encoded(zone)}`;
}

/**
 * Reads the zone without a filter. Before 5.0 PowerDNS leaves disabled records out of a filtered answer, and what is
 * written without them would delete them. A zone too large to be read is no reason to leave a dead address in it.
 */
function whole(zone, record, url) {
  let answer;
  try {
    answer = send("GET", url);
  } catch (failure) {
    if (failure.kind !== "too-large") throw failure;
    warn("the zone is too large to look for disabled records of this name: if there are any they are lost");
    return undefined;
  }
  return read(zone, record, answer);
}

/** What stands in the zone for the record's name, by type. Other names and types are never looked at. */
function read(zone, record, answer) {
  const unfit = (problem) => `the answer is not a zone as PowerDNS shows it: ${problem}`;
  let parsed;
  try {
    parsed = JSON.parse(answer);
  } catch (error) {
    // It may come from a proxy before a server that is just starting; what is JSON of another shape stays as it is.
    throw retry(unfit(error.message));
  }
  const field = (object, name, fits) => {
    const found = object?.[name];
    if (found === undefined) throw permanent(unfit(`missing field \`${name}\``));
    if (!fits(found)) throw permanent(unfit(`field \`${name}\` is ${JSON.stringify(found).slice(0, 80)}`));
    return found;
  };
  const isText = (value) => typeof value === "string";
  const isTime = (value) => Number.isInteger(value) && value >= 0 && value <= 0xffffffff;
  const isFlag = (value) => typeof value === "boolean";

  const name = field(parsed, "name", isText);
  const rrsets = field(parsed, "rrsets", Array.isArray).map((rrset) => ({
    name: field(rrset, "name", isText),
    type: field(rrset, "type", isText),
    ttl: field(rrset, "ttl", isTime),
    records: field(rrset, "records", Array.isArray).map((entry) => ({
      content: field(entry, "content", isText),
      disabled: field({ disabled: false, ...entry }, "disabled", isFlag),
    })),
  }));
  if (canonical(name) !== zone) throw permanent(`asked for zone \`${zone}\`, the answer is about \`${name}\``);
  const found = {};
  for (const family of FAMILIES) {
    const rrset = rrsets.find((rrset) => rrset.type === family.type && canonical(rrset.name) === record);
    const entries = rrset?.records ?? [];
    const values = entries.filter((entry) => !entry.disabled).map((entry) => value(family, entry.content));
    found[family.type] = { values, ttl: rrset?.ttl ?? 0, disabled: entries.filter((entry) => entry.disabled) };
  }
  return found;
}

/** What PowerDNS is to be told, and a line about what is published with it. */
function compare(record, found, wanted, ttl) {
  const [rrsets, words] = [[], []];
  for (const family of FAMILIES) {
    const current = found[family.type];
    const off = current.disabled.map((entry) => parse(entry.content));
    const published = wanted.published.filter((address) => address.length === family.digits);
    const withheld = published.filter((address) => off.includes(address));
    if (withheld.length > 0 && withheld.length === published.length) {
      // To write the rest would empty the record.
      words.push(`${family.type}: left as it is, since all that is up is disabled there`);
      continue;
    }
    const planned = plan(wanted, family, current, ttl, withheld);
    if (!planned) continue;
    words.push(planned.text);
    if (withheld.length > 0) words.push(`left disabled ${list(withheld)}`);
    if (planned.change === "none") continue;
    const live = planned.values.map((address) => ({ content: show(address), disabled: false }));
    const records = [...live, ...current.disabled];
    const change = records.length === 0 ? { changetype: "DELETE" } : { changetype: "REPLACE", ttl: planned.ttl };
    rrsets.push({ name: record, type: family.type, ...change, records });
  }
  return { rrsets, text: `${record} ${words.join(", ")}` };
}
