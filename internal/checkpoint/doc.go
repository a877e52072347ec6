// Package checkpoint keeps what a training run must not lose, in a form that
// any trainer on any chip can resume: the portable checkpoint.
//
// A checkpoint is a directory step-00000120 of plain files: config.json,
// model*.safetensors under logical names, optimizer.safetensors with
// exp_avg.NAME and exp_avg_sq.NAME in float32, state.json (State), tokenizer and
// chat template, and manifest.json with the size and sha256 of every other file.
// No layout of any device is in it and no pickle.
//
// The manifest is the commit. A writer fills a temporary directory (Begin),
// Commit writes state and manifest, puts every byte on disk, and only then gives
// the directory its name. What a dead writer left keeps its temporary name, is
// never read, and is removed by the next Begin; a live writer holds a lock on its
// directory, so nobody removes what it is filling.
//
// Nothing is trusted because it is there: Newest takes the newest checkpoint
// that verifies and says of each newer one why it was passed over.
package checkpoint
