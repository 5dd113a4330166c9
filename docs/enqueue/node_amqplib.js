#!/usr/bin/env node
// Jobs for Tarishi over RabbitMQ, with amqplib (npm install amqplib).
//
//     const tarishi = new Tarishi(process.env.TARISHI_AMQP_URL);
//     await tarishi.send({ id: 'order-8841-shipped', template: 'new_message', to: [{ user_id: '42' }], data: {…} });
//
// `send` resolves once the broker has the job on disk. When it rejects, nobody knows: send the same job, with the same id, again.

'use strict';

const amqp = require('amqplib');
const { randomUUID } = require('node:crypto');

const TIMEOUT = 10_000; // Milliseconds that one send may take, connecting included.

class Tarishi {
  constructor(url) {
    this.url = url;
    this.opened = null;
  }

  async send(job) {
    // Made once: a repeat has to be the same document, or it is refused as another job under the same id.
    const body = Buffer.from(JSON.stringify(job));
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${job.id}: not confirmed within ${TIMEOUT} ms`)), TIMEOUT);
    });
    try {
      await Promise.race([this.publish(job.id, body), late]);
    } catch (error) {
      this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async publish(messageId, body) {
    const opened = await (this.opened ??= this.open());
    const { channel, returned } = opened;
    await new Promise((resolve, reject) => {
      const options = { messageId, contentType: 'application/json', persistent: true, mandatory: true };
      channel.publish('tarishi.jobs', 'job', body, options, (error) => {
        // What no queue takes is returned, and then confirmed all the same.
        if (returned.delete(messageId)) reject(new Error(`${messageId}: no queue takes it; has this broker ever had a Tarishi?`));
        // When the channel was closed, what closed it is told a moment later.
        else if (error) setImmediate(() => reject(new Error(`${messageId}: the broker did not take it: ${(opened.error ?? error).message}`)));
        else resolve();
      });
    });
  }

  async open() {
    const connection = await amqp.connect(this.url, { heartbeat: 10, timeout: TIMEOUT });
    const channel = await connection.createConfirmChannel();
    const opened = { connection, channel, returned: new Set(), error: null };
    channel.on('return', (message) => opened.returned.add(message.properties.messageId));
    // An error is followed by a close; unheard, it would end the process.
    for (const ended of [connection, channel]) {
      ended.on('error', (error) => {
        opened.error = error;
      });
      ended.on('close', () => this.forget(opened));
    }
    return opened;
  }

  // Whatever it was, the next send begins with a new connection.
  async forget(ended) {
    if ((await this.opened) === ended) this.close();
  }

  async close() {
    const opened = this.opened;
    this.opened = null;
    try {
      await (await opened)?.connection.close();
    } catch {
      // It is gone, which is what was wanted.
    }
  }
}

async function main() {
  const tarishi = new Tarishi(process.env.TARISHI_AMQP_URL);
  // An id that means something in your system makes repeats harmless. This one is for trying out.
  const id = process.argv[2] ?? `try-${randomUUID()}`;
  await tarishi.send({
    id,
    template: 'new_message',
    to: [{ user_id: '42', email: 'asha@example.com', locale: 'sw' }],
    data: { sender_name: 'Juma', preview: 'Bado ipo?', conversation_id: 7, unread_count: 1 },
  });
  await tarishi.close();
  console.log(id);
}

module.exports = { Tarishi };

if (require.main === module) {
  main().catch((error) => {
    console.error(error.message);
    process.exit(1);
  });
}
