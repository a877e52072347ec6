// Package certificate signs what a release proved and checks it again, offline.
//
// A certificate is an in-toto Statement v1 in a DSSE envelope, signed with
// ECDSA P-256. Its subjects are the models and the dataset; its predicate names
// every file that the release rests on with its digest, each stage's verdict,
// how far the candidate was from the reference, and what was not done: tests
// not run, hardware never touched. Check reads all of it again and names the
// first file that is not what it was.
//
// A model directory gets a bundle of OpenSSF Model Signing v1.0 as well, the
// same statement that the model_signing tool (1.1.1) writes, and accepts.
// The root digest of that format is what a model directory is named by
// everywhere in Tarbert.
package certificate
