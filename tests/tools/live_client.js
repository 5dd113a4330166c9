// A program of a user's, written against the documentation of the live notifications and nothing else. It plays one scene with sockets of
// the makers it is given, so that it runs as it is in Node and in a browser, and tells what it sees: {client, frame}, {client, closed},
// and {step} where the test has something to do before it can go on.
async function play({ anonymous, byToken, byBearer }, tell) {
  function follow(client, socket) {
    const frames = [];
    let wake = () => {};
    const closed = new Promise((resolve) => {
      socket.onclose = (event) => {
        tell({ client, closed: event.code });
        resolve();
      };
    });
    const opened = new Promise((resolve) => {
      socket.onopen = resolve;
    });
    socket.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      tell({ client, frame });
      frames.push(frame);
      wake();
    };
    return {
      opened,
      closed,
      // The next frame of a type, those of other types passed over.
      async next(type) {
        for (;;) {
          while (frames.length > 0) {
            const frame = frames.shift();
            if (frame.type === type) return frame;
          }
          await new Promise((resolve) => {
            wake = resolve;
          });
        }
      },
      send: (frame) => socket.send(JSON.stringify(frame)),
      close: () => {
        socket.close(1000);
        return closed;
      },
    };
  }

  // As the clients of the system that was replaced do it.
  const legacy = follow("legacy", byToken(""));
  await legacy.opened;
  const first = follow("first", byToken("&v=1"));
  await first.next("hello");
  tell({ step: "connected" });
  const one = await first.next("notification");
  await first.close();
  tell({ step: "away" });
  for (let count = 0; count < 3; count += 1) await legacy.next("notification");
  const again = follow("again", byToken(`&since=${one.seq}&epoch=${one.epoch}`));
  await again.next("recovered");
  again.send({ type: "subscribe", topic: "city.dar" });
  await again.next("subscribed");
  tell({ step: "back" });
  for (let count = 0; count < 3; count += 1) await again.next("notification");
  const other = follow("other", byBearer());
  await other.next("hello");
  again.send({ type: "read", id: one.id });
  for (const client of [again, other]) {
    await client.next("changed");
    await client.next("unread");
  }
  // Whatever was on its way to them is here when the answer is.
  for (const client of [legacy, again, other]) {
    client.send({ type: "ping" });
    await client.next("pong");
    await client.close();
  }
  await follow("stranger", anonymous()).closed;
  tell({ step: "done" });
}

if (typeof module !== "undefined") module.exports = { play };
