package store

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, home string) *Store {
	t.Helper()
	s, err := Open(t.Context(), home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func begin(t *testing.T, s *Store, name string) string {
	t.Helper()
	id, err := s.CreateRelease(t.Context(), name, "/spec/release.yaml", "ab12", time.Unix(1, 5))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestJournalKeepsWhatWasAppended(t *testing.T) {
	home := filepath.Join(t.TempDir(), "a home?with%odd#name")
	s := open(t, home)
	id := begin(t, s, "sums")
	at := time.Unix(1700000000, 123456789).UTC()
	want := []Record{
		{Release: id, Stage: "label", Event: "started", Digest: "d1", At: at},
		{Release: id, Stage: "label", Event: "passed", Digest: "d1", At: at.Add(time.Nanosecond), Data: json.RawMessage(`{"alpha":0.8}`)},
	}
	for i, r := range want {
		got, err := s.Append(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want[i].Seq = got.Seq
	}
	again := open(t, home)
	got, err := again.Records(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	infos, err := again.Releases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantInfo := []ReleaseInfo{{ID: "sums-1", Name: "sums", SpecPath: "/spec/release.yaml", SpecDigest: "ab12",
		Created: time.Unix(1, 5).UTC(), Stage: "label", Event: "passed", At: at.Add(time.Nanosecond)}}
	if d := cmp.Diff(wantInfo, infos); d != "" {
		t.Error(d)
	}
}

func TestReleasesAreNumberedByName(t *testing.T) {
	s := open(t, t.TempDir())
	var ids []string
	for _, n := range []string{"sums", "sums", "other", "sums"} {
		ids = append(ids, begin(t, s, n))
	}
	if d := cmp.Diff([]string{"sums-1", "sums-2", "other-1", "sums-3"}, ids); d != "" {
		t.Error(d)
	}
	if info, err := os.Stat(s.ReleaseDir("sums-3")); err != nil || !info.IsDir() {
		t.Errorf("release folder: %v", err)
	}
	id, ok, err := s.FindRelease(t.Context(), "sums", "/spec/release.yaml")
	if err != nil || !ok || id != "sums-3" {
		t.Errorf("FindRelease = %q, %v, %v; want sums-3", id, ok, err)
	}
	if _, ok, err := s.FindRelease(t.Context(), "sums", "/elsewhere"); ok || err != nil {
		t.Errorf("FindRelease of another file = %v, %v", ok, err)
	}
	for _, bad := range []string{"", "Sums", "../x", "a/b", "-a", "a b"} {
		if _, err := s.CreateRelease(t.Context(), bad, "", "", time.Unix(1, 0)); err == nil {
			t.Errorf("CreateRelease(%q) was accepted", bad)
		}
	}
}

func TestJournalRefusesWhatItCannotMean(t *testing.T) {
	s := open(t, t.TempDir())
	id := begin(t, s, "sums")
	now := time.Unix(1, 0)
	for name, r := range map[string]Record{
		"event":   {Release: id, Event: "maybe", At: now},
		"time":    {Release: id, Event: "note"},
		"json":    {Release: id, Event: "note", At: now, Data: json.RawMessage("{")},
		"release": {Release: "nobody-1", Event: "note", At: now},
	} {
		if _, err := s.Append(t.Context(), r); err == nil || errors.Is(err, ErrEnvironment) {
			t.Errorf("%s: err = %v, want a plain refusal", name, err)
		}
	}
	if _, err := s.Append(t.Context(), Record{Release: id, Stage: "x", Event: "note", At: now}); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"UPDATE records SET event = 'passed'", "DELETE FROM records"} {
		if _, err := s.db.Exec(q); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v, want refusal", q, err)
		}
	}
}

func TestTwoProcessesAppendAtOnce(t *testing.T) {
	home := t.TempDir()
	begin(t, open(t, home), "sums")
	const each = 200
	type child struct {
		out  bytes.Buffer
		errs bytes.Buffer
		wait func() error
	}
	var children [2]child
	for i := range children {
		cmd := helper(t, home, fmt.Sprintf("append:%d", each))
		cmd.Stdout, cmd.Stderr = &children[i].out, &children[i].errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children[i].wait = cmd.Wait
	}
	for i := range children {
		if err := children[i].wait(); err != nil {
			t.Fatalf("process %d: %v\n%s", i, err, children[i].errs.String())
		}
	}
	s := open(t, home)
	records, err := s.Records(t.Context(), "sums-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 2*each {
		t.Fatalf("%d records, want %d", len(records), 2*each)
	}
	next := map[int]int{} // per process, its own order is kept
	last := int64(0)
	for _, r := range records {
		var p struct{ Pid, I int }
		if err := json.Unmarshal(r.Data, &p); err != nil {
			t.Fatal(err)
		}
		if p.I != next[p.Pid] || r.Seq <= last {
			t.Fatalf("seq %d after %d: process %d wrote %d, want %d", r.Seq, last, p.Pid, p.I, next[p.Pid])
		}
		next[p.Pid]++
		last = r.Seq
	}
	if len(next) != 2 {
		t.Errorf("records of %d processes, want 2", len(next))
	}
}

func TestKilledWriterLosesNothingAcknowledged(t *testing.T) {
	home := t.TempDir()
	begin(t, open(t, home), "sums")
	cmd := helper(t, home, "append:100000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	acknowledged := 0
	for lines.Scan() {
		if acknowledged++; acknowledged == 40 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the writer ended by itself")
	}
	s := open(t, home)
	records, err := s.Records(t.Context(), "sums-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(records) < acknowledged || acknowledged < 40 {
		t.Errorf("%d records, %d were acknowledged", len(records), acknowledged)
	}
	for i, r := range records {
		if !json.Valid(r.Data) || r.Seq != int64(i+1) {
			t.Fatalf("record %d: seq %d, data %.40s", i, r.Seq, r.Data)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	home := t.TempDir()
	s := open(t, home)
	if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), home)
	if !errors.Is(err, ErrNewerSchema) || !errors.Is(err, ErrEnvironment) {
		t.Fatalf("err = %v, want ErrNewerSchema and ErrEnvironment", err)
	}
	if !strings.Contains(err.Error(), "schema 99") {
		t.Errorf("%q does not name the schema", err)
	}
}

func TestMigrationIsWholeOrNotAtAll(t *testing.T) {
	home := t.TempDir()
	db, err := sql.Open("sqlite", filepath.Join(home, "tarbert.db"))
	if err != nil {
		t.Fatal(err)
	}
	// A table in the way makes the first migration fail half way.
	if _, err := db.Exec("CREATE TABLE records (x)"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), home); err == nil {
		t.Fatal("a migration over a foreign table was accepted")
	}
	var tables, version int
	if err := db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'releases'").Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if tables != 0 || version != 0 {
		t.Errorf("failed migration left %d tables, version %d", tables, version)
	}
	if _, err := db.Exec("DROP TABLE records"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	begin(t, open(t, home), "sums")
}

func TestDamagedDatabaseIsNamed(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"not a database": func([]byte) []byte { return []byte(strings.Repeat("garbage ", 1000)) },
		"bad page":       func(b []byte) []byte { copy(b[4096+8:], bytes.Repeat([]byte{0xff}, 2000)); return b },
		"cut short":      func(b []byte) []byte { return b[:len(b)-4096-100] },
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			s, err := Open(t.Context(), home)
			if err != nil {
				t.Fatal(err)
			}
			begin(t, s, "sums")
			if err := s.Close(); err != nil { // the last one out checkpoints the WAL
				t.Fatal(err)
			}
			path := filepath.Join(home, "tarbert.db")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, spoil(b), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), home)
			if !errors.Is(err, ErrDamaged) || !errors.Is(err, ErrEnvironment) {
				t.Fatalf("err = %v, want ErrDamaged and ErrEnvironment", err)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "mv ") {
				t.Errorf("%q names neither the file nor the way out", err)
			}
		})
	}
}

func TestUnwritableHome(t *testing.T) {
	t.Run("below a file", func(t *testing.T) {
		f := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), filepath.Join(f, "home")); !errors.Is(err, ErrEnvironment) {
			t.Errorf("err = %v, want ErrEnvironment", err)
		}
	})
	t.Run("no permission", func(t *testing.T) {
		home := t.TempDir()
		if os.Getuid() != 0 {
			if err := os.Chmod(home, 0o555); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), home)
			if !errors.Is(err, ErrEnvironment) || !strings.Contains(err.Error(), "--home") {
				t.Errorf("err = %v, want ErrEnvironment with advice", err)
			}
			return
		}
		out, err := helper(t, home, "open-unprivileged").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--home") {
			t.Errorf("open as nobody: %v, %q; want advice", err, out)
		}
	})
}

func TestFullDatabaseLosesOnlyTheNewRecord(t *testing.T) {
	s := open(t, t.TempDir())
	id := begin(t, s, "sums")
	s.db.SetMaxOpenConns(1) // the limit below belongs to a connection
	if _, err := s.db.Exec("PRAGMA max_page_count = 12"); err != nil {
		t.Fatal(err)
	}
	kept := 0
	var err error
	for ; err == nil && kept < 1000; kept++ {
		_, err = s.Append(t.Context(), Record{Release: id, Event: "note", At: time.Unix(1, 0), Data: payload(1, kept)})
	}
	kept--
	if !errors.Is(err, ErrEnvironment) || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("err = %v, want a full disk", err)
	}
	records, err := s.Records(t.Context(), id)
	if err != nil || len(records) != kept || kept == 0 {
		t.Errorf("%d records, %v; want %d", len(records), err, kept)
	}
}

func TestLocks(t *testing.T) {
	home := t.TempDir()
	s := open(t, home)
	cmd := helper(t, home, "lock:release-sums-1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("holder said %q, %v", line, err)
	}
	_, err = s.Lock(t.Context(), "release-sums-1")
	var held *LockedError
	if !errors.As(err, &held) || !errors.Is(err, ErrLocked) || held.Pid != cmd.Process.Pid {
		t.Fatalf("err = %v, want a LockedError of process %d", err, cmd.Process.Pid)
	}
	if errors.Is(err, ErrEnvironment) {
		t.Error("a held lock is not the environment's failure")
	}
	unlockOther, err := s.Lock(t.Context(), "release-sums-2")
	if err != nil {
		t.Fatalf("another name: %v", err)
	}
	unlockOther()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	unlock, err := s.Lock(t.Context(), "release-sums-1")
	if err != nil {
		t.Fatalf("the holder is dead: %v", err)
	}
	if _, err := s.Lock(t.Context(), "release-sums-1"); !errors.As(err, &held) || held.Pid != os.Getpid() {
		t.Errorf("err = %v, want held by ourselves", err)
	}
	unlock()
	unlock() // twice is no error
	again, err := s.Lock(t.Context(), "release-sums-1")
	if err != nil {
		t.Fatal(err)
	}
	again()
	for _, bad := range []string{"", "../x", "a/b"} {
		if _, err := s.Lock(t.Context(), bad); err == nil {
			t.Errorf("Lock(%q) was accepted", bad)
		}
	}
}

func TestOpenGivesUpWithItsContext(t *testing.T) {
	home := t.TempDir()
	open(t, home)
	unlock, err := flock(filepath.Join(home, "locks", "open.lock"), "open")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, home); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrLocked) {
		t.Errorf("err = %v, want the deadline and who holds it", err)
	}
}
