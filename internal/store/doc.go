// Package store owns everything durable below one home directory: the journal
// (SQLite in WAL mode), content-addressed artifacts, locks and atomic files.
//
//	home/tarbert.db                     journal: releases and their append-only records
//	home/artifacts/sha256/ab/ab12…      read-only files named by the SHA-256 of their bytes
//	home/releases/<id>/                 what the stages of a release write
//	home/locks/<name>.lock              flock'd files holding the owner's pid
//	home/tmp/                           files on their way to a name; swept when their writer is dead
//
// Several of our processes may open one home at once. What must have a single
// owner (the runner of a release) takes a Lock; everything else is made safe by
// SQLite's own locking and by rename.
//
// An error that wraps ErrEnvironment came from the machine (disk, permissions,
// a damaged database), not from what the user asked for.
package store
