package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sort"

	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Store is an open home. It is safe for concurrent use.
type Store struct {
	home string
	db   *sql.DB
}

// Open opens home, making it if it is not there, and brings its database to
// this version's schema. Errors that the machine caused wrap ErrEnvironment.
func Open(ctx context.Context, home string) (*Store, error) {
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, envError(err, "open home")
	}
	for _, d := range []string{"artifacts/sha256", "releases", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			return nil, envError(err, "open home %s", home)
		}
	}
	// One at a time: two processes that switch a new database to WAL at once
	// can get SQLITE_BUSY whatever the busy timeout is.
	unlock, err := waitLock(ctx, filepath.Join(home, "locks", "open.lock"), "home "+home)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &Store{home: home}
	if err := s.openDatabase(ctx); err != nil {
		return nil, err
	}
	sweep(filepath.Join(home, "tmp"))
	return s, nil
}

// Close releases the database. Locks are released by their own functions.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return envError(err, "close %s", s.databasePath())
	}
	return nil
}

// Home is the absolute path of the home directory.
func (s *Store) Home() string { return s.home }

func (s *Store) databasePath() string { return filepath.Join(s.home, "tarbert.db") }

func (s *Store) openDatabase(ctx context.Context) error {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(15000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}}
	dsn := url.URL{Scheme: "file", Path: s.databasePath(), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return envError(err, "open %s", s.databasePath())
	}
	s.db = db
	err = s.check(ctx)
	if err == nil {
		err = s.migrate(ctx)
	}
	if err != nil {
		return errors.Join(s.databaseError(err, "open"), db.Close())
	}
	return nil
}

// check reads the whole database once: a damaged journal is found now, not in
// the middle of a release. Journals are small (a few records per stage).
func (s *Store) check(ctx context.Context) error {
	var answer string
	if err := s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&answer); err != nil {
		return err
	}
	if answer != "ok" {
		return fmt.Errorf("%w: %s", ErrDamaged, answer)
	}
	return nil
}

// migrate applies the numbered migrations that the database lacks, each in a
// transaction with the new user_version.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return err
	}
	sort.Strings(names)
	var have int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > len(names) {
		return fmt.Errorf("%w: schema %d, and this version knows up to %d; use the newer tarbert or another --home", ErrNewerSchema, have, len(names))
	}
	for i, name := range names {
		if version := i + 1; version > have {
			if err := s.apply(ctx, name, version); err != nil {
				return fmt.Errorf("apply %s: %w", name, err)
			}
		}
	}
	return nil
}

func (s *Store) apply(ctx context.Context, name string, version int) error {
	text, err := migrationFiles.ReadFile(name)
	if err != nil {
		return err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	if _, err := tx.ExecContext(ctx, string(text)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// databaseError gives an error of SQLite its meaning and says what to do.
func (s *Store) databaseError(err error, doing string) error {
	path := s.databasePath()
	switch sqliteCode(err) {
	case 0:
		if errors.Is(err, ErrDamaged) {
			break
		}
		if errors.Is(err, ErrNewerSchema) {
			return envError(err, "%s %s", doing, path)
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s %s: %w", doing, path, err)
		}
		return envError(err, "%s %s", doing, path)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	default:
		return envError(err, "%s %s", doing, path)
	}
	return envError(err, "%s %s: move it aside (mv %[2]s %[2]s.damaged) and run again; artifacts and release folders stay", doing, path)
}
