package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// Record is one line of a release's journal. Records are never changed.
type Record struct {
	Seq     int64           `json:"seq"` // given by Append; grows through the whole home
	Release string          `json:"release"`
	Stage   string          `json:"stage"`
	Event   string          `json:"event"`  // started, passed, failed, inconclusive, error, note
	Digest  string          `json:"digest"` // of the stage's inputs
	At      time.Time       `json:"at"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// ReleaseInfo is what the journal knows of a release without its records.
type ReleaseInfo struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	SpecPath   string    `json:"spec_path"`
	SpecDigest string    `json:"spec_digest"`
	Created    time.Time `json:"created"`
	// Stage, Event and At are the last record's; empty if there is none.
	Stage string    `json:"stage,omitempty"`
	Event string    `json:"event,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

var (
	events      = []string{"started", "passed", "failed", "inconclusive", "error", "note"}
	releaseName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,98}[a-z0-9])?$`)
)

// CreateRelease begins the next release of this name ("sums-1", "sums-2", …)
// and makes its folder.
func (s *Store) CreateRelease(ctx context.Context, name, specPath, specDigest string, now time.Time) (string, error) {
	if !releaseName.MatchString(name) {
		return "", fmt.Errorf("release name %q: want lower-case letters, digits, dots and dashes", name)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return "", s.databaseError(err, "begin release in")
	}
	defer tx.Rollback() // no effect after Commit
	var number int
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(number), 0) + 1 FROM releases WHERE name = ?`, name).Scan(&number); err != nil {
		return "", s.databaseError(err, "begin release in")
	}
	id := fmt.Sprintf("%s-%d", name, number)
	if _, err := tx.ExecContext(ctx, `INSERT INTO releases (id, name, number, spec_path, spec_digest, created) VALUES (?, ?, ?, ?, ?, ?)`,
		id, name, number, specPath, specDigest, now.UnixNano()); err != nil {
		return "", s.databaseError(err, "begin release in")
	}
	if err := os.MkdirAll(s.ReleaseDir(id), 0o755); err != nil {
		return "", envError(err, "begin release %s", id)
	}
	if err := tx.Commit(); err != nil {
		return "", s.databaseError(err, "begin release in")
	}
	return id, nil
}

// FindRelease is the newest release of this name from this spec file.
func (s *Store) FindRelease(ctx context.Context, name, specPath string) (id string, ok bool, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT id FROM releases WHERE name = ? AND spec_path = ? ORDER BY number DESC LIMIT 1`, name, specPath).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, s.databaseError(err, "read")
	}
	return id, true, nil
}

// ReleaseDir is where the stages of a release write.
func (s *Store) ReleaseDir(id string) string { return filepath.Join(s.home, "releases", id) }

// Append adds r to the journal and returns it with its Seq. When Append
// returns, the record is durable.
func (s *Store) Append(ctx context.Context, r Record) (Record, error) {
	if !slices.Contains(events, r.Event) {
		return Record{}, fmt.Errorf("journal record: event %q is none of %v", r.Event, events)
	}
	if r.At.IsZero() {
		return Record{}, errors.New("journal record: no time")
	}
	if len(r.Data) > 0 && !json.Valid(r.Data) {
		return Record{}, errors.New("journal record: data is not JSON")
	}
	res, err := s.db.ExecContext(ctx, `INSERT INTO records (release, stage, event, digest, at, data) VALUES (?, ?, ?, ?, ?, ?)`,
		r.Release, r.Stage, r.Event, r.Digest, r.At.UnixNano(), string(r.Data))
	if sqliteCode(err) == sqlite3.SQLITE_CONSTRAINT {
		return Record{}, fmt.Errorf("journal record for %q: %w", r.Release, ErrNoRelease)
	}
	if err != nil {
		return Record{}, s.databaseError(err, "append to")
	}
	if r.Seq, err = res.LastInsertId(); err != nil {
		return Record{}, s.databaseError(err, "append to")
	}
	r.At = time.Unix(0, r.At.UnixNano()).UTC()
	return r, nil
}

// Records lists a release's journal in the order it was written.
func (s *Store) Records(ctx context.Context, release string) ([]Record, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT seq, release, stage, event, digest, at, data FROM records WHERE release = ? ORDER BY seq`, release)
	if err != nil {
		return nil, s.databaseError(err, "read")
	}
	defer rows.Close()
	var out []Record
	for rows.Next() {
		var r Record
		var at int64
		var data string
		if err := rows.Scan(&r.Seq, &r.Release, &r.Stage, &r.Event, &r.Digest, &at, &data); err != nil {
			return nil, s.databaseError(err, "read")
		}
		r.At = time.Unix(0, at).UTC()
		if data != "" {
			r.Data = json.RawMessage(data)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, s.databaseError(err, "read")
	}
	return out, nil
}

// Releases lists all releases, oldest first.
func (s *Store) Releases(ctx context.Context) ([]ReleaseInfo, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT r.id, r.name, r.spec_path, r.spec_digest, r.created, coalesce(j.stage, ''), coalesce(j.event, ''), coalesce(j.at, 0)
		FROM releases r LEFT JOIN records j ON j.seq = (SELECT max(seq) FROM records WHERE release = r.id)
		ORDER BY r.created, r.rowid`)
	if err != nil {
		return nil, s.databaseError(err, "read")
	}
	defer rows.Close()
	var out []ReleaseInfo
	for rows.Next() {
		var i ReleaseInfo
		var created, at int64
		if err := rows.Scan(&i.ID, &i.Name, &i.SpecPath, &i.SpecDigest, &created, &i.Stage, &i.Event, &at); err != nil {
			return nil, s.databaseError(err, "read")
		}
		i.Created = time.Unix(0, created).UTC()
		if i.Event != "" {
			i.At = time.Unix(0, at).UTC()
		}
		out = append(out, i)
	}
	if err := rows.Err(); err != nil {
		return nil, s.databaseError(err, "read")
	}
	return out, nil
}
