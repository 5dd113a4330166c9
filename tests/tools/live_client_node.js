// Plays the scene of live_client.js with the package `ws`: live_client_node.js BASE TOKEN
const WebSocket = require("ws");
const { play } = require("./live_client.js");

const [base, token] = process.argv.slice(2);
const address = `${base}/ws/notifications/`;

const sockets = {
  anonymous: () => new WebSocket(address, ["tarishi.v1"]),
  byToken: (more) => new WebSocket(`${address}?token=${token}${more}`),
  byBearer: () => new WebSocket(address, ["tarishi.v1"], { headers: { authorization: `Bearer ${token}` } }),
};
play(sockets, (told) => console.log(JSON.stringify(told)));
