// Verifies callbacks as their receivers would, with nothing but Node's own crypto. Reads {publicKey, authToken, calls: [{url, headers,
// body}]} from the file it is given, and prints one line for each call.
const crypto = require("crypto");
const fs = require("fs");

const { publicKey, authToken, calls } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));

function sendgrid({ headers, body }) {
  const key = crypto.createPublicKey({ key: Buffer.from(publicKey, "base64"), format: "der", type: "spki" });
  const signed = Buffer.from(headers["x-twilio-email-event-webhook-timestamp"] + body, "utf8");
  const signature = Buffer.from(headers["x-twilio-email-event-webhook-signature"], "base64");
  return crypto.verify("sha256", signed, key, signature);
}

function twilio({ url, headers, body }) {
  const fields = [...new URLSearchParams(body)].sort(([a], [b]) => (a < b ? -1 : 1));
  const signed = fields.reduce((text, [name, value]) => text + name + value, url);
  return crypto.createHmac("sha1", authToken).update(signed, "utf8").digest("base64") === headers["x-twilio-signature"];
}

for (const call of calls) {
  const isMail = "x-twilio-email-event-webhook-signature" in call.headers;
  console.log(`${isMail ? "sendgrid" : "twilio"} ${(isMail ? sendgrid : twilio)(call) ? "good" : "bad"}`);
}
