// Unpacks nsfwjs's MobileNetV2 (JSON topology and base64 weights): node mobilenet.cjs NODE_MODULES OUT
const fs = require('fs'), path = require('path');
const folder = path.resolve(process.argv[2], 'nsfwjs/dist/models/mobilenet_v2');
const model = require(path.join(folder, 'model.min.js'));
const shard = require(path.join(folder, 'group1-shard1of1.min.js'));
fs.writeFileSync(process.argv[3] + '/mobilenet.json', JSON.stringify(model));
fs.writeFileSync(process.argv[3] + '/mobilenet.bin', Buffer.from(shard.default ?? shard, 'base64'));
