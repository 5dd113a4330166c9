// Pushes as Google's own libraries do: an assertion for an access token, then many messages over one HTTP/2 connection. Reads a service
// account from the file it is given; the address of FCM and the number of messages follow.
const crypto = require("crypto");
const fs = require("fs");
const http2 = require("http2");

const [file, base, number] = process.argv.slice(2);
const account = JSON.parse(fs.readFileSync(file, "utf8"));

function assertion() {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: account.client_email,
    aud: "https://oauth2.googleapis.com/token",
    scope: "https://www.googleapis.com/auth/firebase.messaging",
    iat: now,
    exp: now + 3600,
  };
  const signed = `${part({ typ: "JWT", alg: "RS256", kid: account.private_key_id })}.${part(claims)}`;
  return `${signed}.${crypto.sign("sha256", Buffer.from(signed), account.private_key).toString("base64url")}`;
}

function post(session, path, headers, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": "POST", ":path": path, ...headers });
    let status;
    let text = "";
    stream.on("response", (answer) => (status = answer[":status"]));
    stream.on("data", (chunk) => (text += chunk));
    stream.on("end", () => resolve({ status, body: JSON.parse(text) }));
    stream.on("error", reject);
    stream.end(body);
  });
}

async function main() {
  const grant = new URLSearchParams({ grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer", assertion: assertion() });
  const asked = await fetch(account.token_uri, { method: "POST", body: grant });
  const { access_token: token, expires_in: lifetime, token_type: type } = await asked.json();
  console.log(`token ${asked.status} ${type} ${lifetime}`);
  const session = http2.connect(base);
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const path = `/v1/projects/${account.project_id}/messages:send`;
  const send = (_, at) => post(session, path, headers, JSON.stringify({ message: { token: `device-${at}`, notification: { title: "x" } } }));
  const answers = await Promise.all(Array.from({ length: Number(number) }, send));
  session.close();
  const names = new Set(answers.map(({ body }) => body.name));
  console.log(`sent ${answers.filter(({ status }) => status === 200).length} names ${names.size}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
