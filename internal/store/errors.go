package store

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	// ErrEnvironment marks errors that the machine caused: a full or read-only
	// disk, missing permissions, a damaged database.
	ErrEnvironment = errors.New("the environment failed")
	// ErrLocked marks a lock that another owner holds; see LockedError.
	ErrLocked = errors.New("locked by another process")
	// ErrNewerSchema marks a database written by a later version of the product.
	ErrNewerSchema = errors.New("database was written by a newer version")
	// ErrDamaged marks a database or artifact whose content is not what was written.
	ErrDamaged = errors.New("content is damaged")
	// ErrNoArtifact marks a digest that the store does not hold.
	ErrNoArtifact = errors.New("no such artifact")
	// ErrNoRelease marks a release id that the journal does not hold.
	ErrNoRelease = errors.New("no such release")
)

// LockedError says who holds a lock. It matches ErrLocked.
type LockedError struct {
	Name string
	Pid  int // 0 = not known
}

func (e *LockedError) Error() string {
	if e.Pid == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Name)
	}
	return fmt.Sprintf("%s is locked by process %d; wait for it or end it", e.Name, e.Pid)
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// environment is an error of the machine, with advice where there is some.
type environment struct {
	what string
	err  error
}

func (e *environment) Error() string {
	msg := e.what + ": " + e.err.Error()
	if a := advice(e.err); a != "" {
		msg += " (" + a + ")"
	}
	return msg
}

func (e *environment) Unwrap() error { return e.err }

func (e *environment) Is(target error) bool { return target == ErrEnvironment }

func envError(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &environment{what: fmt.Sprintf(format, args...), err: err}
}

// advice is what to do about an error of the file system or of SQLite.
func advice(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), sqliteCode(err) == sqlite3.SQLITE_FULL:
		return "the disk is full: free some space and run the same command again"
	case errors.Is(err, syscall.EFBIG):
		return "the file size limit was reached: raise it with ulimit -f"
	case errors.Is(err, syscall.EROFS), sqliteCode(err) == sqlite3.SQLITE_READONLY:
		return "the home is read-only: choose another with --home DIR"
	case errors.Is(err, fs.ErrPermission):
		return "no permission: fix the owner or choose another home with --home DIR"
	}
	return ""
}

// sqliteCode is the primary result code of a SQLite error, 0 for any other.
func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}
