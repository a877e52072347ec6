package convert

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawRecord makes any record.
func drawRecord(t *rapid.T) record {
	r := record{Band: rapid.Int64Range(0, 1<<40).Draw(t, "band")}
	for range rapid.IntRange(0, 3).Draw(t, "writes") {
		r.Writes = append(r.Writes, written{Slot: rapid.IntRange(0, 2).Draw(t, "slot"), Offset: rapid.Int64().Draw(t, "offset"),
			Length: rapid.Int64().Draw(t, "length"), Sum: rapid.Uint32().Draw(t, "sum")})
	}
	finite := rapid.Float64Range(0, 1e300)
	r.Loss.Max, r.Loss.Signal, r.Loss.Other = finite.Draw(t, "max"), finite.Draw(t, "signal"), finite.Draw(t, "other")
	for range rapid.IntRange(0, 2).Draw(t, "tiles") {
		r.Loss.tile(rapid.IntRange(0, 250).Draw(t, "spread"))
	}
	return r
}

// TestJournalKeepsWhatIsWhole: records come back to the bit, up to the first byte
// that is torn off or damaged, and none after it.
func TestJournalKeepsWhatIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		j, err := createJournal(dir, "id")
		if err != nil {
			t.Fatal(err)
		}
		var want []record
		var ends []int64
		path := filepath.Join(dir, journalName)
		for range rapid.IntRange(0, 5).Draw(t, "records") {
			r := drawRecord(t)
			if err := j.append(&r, nil); err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			want, ends = append(want, r), append(ends, st.Size())
		}
		if err := j.f.Close(); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first := bytes.IndexByte(whole, '\n') + 1
		cut := rapid.IntRange(first, len(whole)).Draw(t, "cut")
		b := bytes.Clone(whole[:cut])
		if rapid.Bool().Draw(t, "damage") && cut > first {
			at := rapid.IntRange(first, cut-1).Draw(t, "at")
			b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			cut = at
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		again, err := reopenJournal(dir, "id")
		if err != nil || again == nil {
			t.Fatal(again, err)
		}
		defer again.f.Close()
		var got []record
		if err := again.replay(func(r *record) error { got = append(got, *r); return nil }); err != nil {
			t.Fatal(err)
		}
		n := 0
		for n < len(ends) && ends[n] <= int64(cut) {
			n++
		}
		if diff := cmp.Diff(want[:n], got); n > 0 && diff != "" || n == 0 && len(got) > 0 {
			t.Fatalf("%d whole records: %s", n, diff)
		}
		// What is appended after it is found again.
		extra := drawRecord(t)
		if err := again.append(&extra, nil); err != nil {
			t.Fatal(err)
		}
		count := 0
		if err := again.replay(func(*record) error { count++; return nil }); err != nil || count != n+1 {
			t.Fatalf("%d records after an appended one, want %d: %v", count, n+1, err)
		}
	})
}

func TestJournalOfAnother(t *testing.T) {
	dir := t.TempDir()
	if j, err := reopenJournal(dir, "id"); j != nil || err != nil {
		t.Errorf("no journal: %v, %v", j, err)
	}
	j, err := createJournal(dir, "id")
	if err != nil {
		t.Fatal(err)
	}
	j.f.Close()
	if j, err := reopenJournal(dir, "other"); j != nil || err != nil {
		t.Errorf("another's journal: %v, %v", j, err)
	}
}

func FuzzJournal(f *testing.F) {
	line, err := encodeLine(identityLine{"id"})
	if err != nil {
		f.Fatal(err)
	}
	rec, err := encodeLine(&record{Band: 3, Writes: []written{{Slot: 1, Offset: 5, Length: 7, Sum: 9}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(append(bytes.Clone(line), rec...), rec[:9]...))
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		good, err := readRecords(bytes.NewReader(b), func(r *record) error {
			if _, err := json.Marshal(r); err != nil {
				t.Fatal(err)
			}
			return nil
		})
		if err != nil || good > int64(len(b)) {
			t.Fatalf("%d of %d bytes, %v", good, len(b), err)
		}
	})
}
