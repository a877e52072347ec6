package convert_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/convert"
	"tarbert/internal/progress"
)

const journal = ".conversion.journal"

// interrupted cancels a conversion after so many bands and returns the partial directory.
func interrupted(t *testing.T, src, dst, format string, bands int) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	_, err := convert.Convert(ctx, src, dst, format, convert.Options{Workers: 1, Progress: func(progress.Update) {
		if n++; n == bands {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	found, err := filepath.Glob(dst + ".partial-*")
	if err != nil || len(found) != 1 {
		t.Fatalf("partial directories %v, %v", found, err)
	}
	return found[0]
}

// TestResumedWorkIsVerified: whatever happens to what a killed conversion left, the
// next one ends with the right files; and what is intact is not done again.
func TestResumedWorkIsVerified(t *testing.T) {
	weights := "model-00001-of-00001.safetensors"
	flip := func(t *testing.T, path string, at int64) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[0] ^ 1}, at); err != nil {
			t.Fatal(err)
		}
	}
	size := func(t *testing.T, path string) int64 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	want, full := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{})
	plan, err := convert.Plan(context.Background(), deepseek, convert.W8A8Ascend, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	embedding := plan.Tensors[1] // in natural order: the head, then the embedding
	tests := map[string]struct {
		damage func(t *testing.T, dir string)
		most   float64 // share of the output that may be taken over
		least  float64
	}{
		"nothing":             {func(*testing.T, string) {}, 0.9, 0.2},
		"a bit of the output": {func(t *testing.T, dir string) { flip(t, filepath.Join(dir, weights), embedding.Offset+100) }, 0.9, 0.1},
		"the header":          {func(t *testing.T, dir string) { flip(t, filepath.Join(dir, weights), 20) }, 0.9, 0.2},
		"a shorter file": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, weights), 1000); err != nil {
				t.Fatal(err)
			}
		}, 0, 0},
		"no file": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, weights)) }, 0, 0},
		"a bit of the journal": {func(t *testing.T, dir string) {
			flip(t, filepath.Join(dir, journal), size(t, filepath.Join(dir, journal))/2)
		}, 0.5, 0.01},
		"a torn journal": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, journal)
			if err := os.Truncate(path, size(t, path)-7); err != nil {
				t.Fatal(err)
			}
		}, 0.9, 0.2},
		"another conversion's journal": {func(t *testing.T, dir string) { flip(t, filepath.Join(dir, journal), 30) }, 0, 0},
		"no journal":                   {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, journal)) }, 0, 0},
		"an empty journal":             {func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, journal), 0) }, 0, 0},
		"files of the end": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "config.json"), "{")
			put(t, filepath.Join(dir, "conversion.json"), "{")
			put(t, filepath.Join(dir, "stray.txt"), "x")
		}, 0.9, 0.2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "out")
			tt.damage(t, interrupted(t, deepseek, dst, convert.W8A8Ascend, 40))
			rep, err := convert.Convert(context.Background(), deepseek, dst, convert.W8A8Ascend, convert.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if share := float64(rep.Resumed) / float64(full.Totals.BytesOut); share > tt.most || share < tt.least {
				t.Errorf("%.0f %% taken over, want %.0f to %.0f", 100*share, 100*tt.least, 100*tt.most)
			}
			if diff := cmp.Diff(listing(t, want), listing(t, dst)); diff != "" {
				t.Errorf("differs from an undisturbed run's: %.500s", diff)
			}
			if left, err := filepath.Glob(dst + ".partial-*"); err != nil || len(left) != 0 {
				t.Errorf("left behind %v, %v", left, err)
			}
		})
	}
}

// TestAnotherConversionDoesNotResume: other options, or a source that changed, begin again.
func TestAnotherConversionDoesNotResume(t *testing.T) {
	src := clone(t, deepseek)
	for name, change := range map[string]func() convert.Options{
		"other options":    func() convert.Options { return convert.Options{Keep: []string{"*.o_proj"}} },
		"another source":   func() convert.Options { put(t, filepath.Join(src, "LICENSE"), "free"); return convert.Options{} },
		"another rounding": func() convert.Options { return convert.Options{Rounding: convert.Exact} },
	} {
		dst := filepath.Join(t.TempDir(), "out")
		interrupted(t, src, dst, convert.W8A8Ascend, 40)
		o := change()
		want, _ := mustConvert(t, src, convert.W8A8Ascend, o)
		rep, err := convert.Convert(context.Background(), src, dst, convert.W8A8Ascend, o)
		if err != nil || rep.Resumed != 0 {
			t.Errorf("%s: %d bytes taken over, %v", name, rep.Resumed, err)
		}
		if diff := cmp.Diff(listing(t, want), listing(t, dst)); diff != "" {
			t.Errorf("%s: differs: %.300s", name, diff)
		}
	}
}

// TestKilledAnywhere kills a conversion at a random moment, and another one of the
// same, and lets a third end it: the files are those of an undisturbed one.
func TestKilledAnywhere(t *testing.T) { killedAnywhere(t, 3) }

// TestSoakKilledAnywhere does so fifty times.
func TestSoakKilledAnywhere(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("minutes: set TARBERT_SOAK=1, or make soak")
	}
	killedAnywhere(t, 50)
}

func killedAnywhere(t *testing.T, times int) {
	for _, tt := range []struct{ src, to string }{{v3(t), convert.W8A8Ascend}, {v4, convert.FP8}} {
		o := convert.Options{ShardSize: 400_000}
		want, _ := mustConvert(t, tt.src, tt.to, o)
		files := listing(t, want)
		plan, err := convert.Plan(context.Background(), tt.src, tt.to, o)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(uint64(times), 7))
		var resumed int64
		for range times {
			out := t.TempDir()
			bands := int(plan.Bands)
			for range 2 {
				bands = rng.IntN(bands + 1)
				killAt(t, tt.src, tt.to, out, bands, time.Duration(rng.IntN(1000))*time.Microsecond)
			}
			rep, err := convert.Convert(context.Background(), tt.src, filepath.Join(out, "out"), tt.to, o)
			if err != nil {
				t.Fatal(err)
			}
			resumed += rep.Resumed
			if diff := cmp.Diff(files, listing(t, filepath.Join(out, "out"))); diff != "" {
				t.Errorf("%s: differs: %.300s", tt.to, diff)
			}
			if entries, err := os.ReadDir(out); err != nil || len(entries) != 1 {
				t.Errorf("%s: left behind %v, %v", tt.to, entries, err)
			}
		}
		if resumed == 0 {
			t.Errorf("%s: nothing was ever taken over", tt.to)
		}
		t.Logf("%s: %d times two kills, %d bytes taken over", tt.to, times, resumed)
	}
}

// killAt starts a conversion in another process, lets it do some bands and a little
// more, and kills it.
func killAt(t *testing.T, src, to, out string, bands int, more time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CONVERT_TEST_KILL="+out, "CONVERT_TEST_SRC="+src, "CONVERT_TEST_TO="+to)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for range bands {
		if !lines.Scan() {
			break // it has ended: a kill after the end is one too
		}
	}
	timer := time.AfterFunc(more, func() { cmd.Process.Kill() })
	for lines.Scan() {
		// until it is killed or has ended
	}
	timer.Stop()
	cmd.Wait() // reports the kill
}

// beKilled converts and prints a line for each band.
func beKilled(out string) int {
	_, err := convert.Convert(context.Background(), os.Getenv("CONVERT_TEST_SRC"), filepath.Join(out, "out"), os.Getenv("CONVERT_TEST_TO"),
		convert.Options{ShardSize: 400_000, Progress: func(u progress.Update) { fmt.Println(strconv.FormatFloat(u.Done, 'g', -1, 64)) }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestSourceTruncatedOnTheWay: a file that loses its end while it is read is an error
// that says so, and nothing appears.
func TestSourceTruncatedOnTheWay(t *testing.T) {
	src := clone(t, deepseek)
	parent := t.TempDir()
	n := 0
	_, err := convert.Convert(context.Background(), src, filepath.Join(parent, "out"), convert.BF16, convert.Options{Workers: 1, Progress: func(progress.Update) {
		if n++; n == 3 {
			os.Truncate(filepath.Join(src, "model.safetensors"), 300_000)
		}
	}})
	if err == nil || !strings.Contains(err.Error(), "became shorter") && !strings.Contains(err.Error(), "changed while") {
		t.Errorf("error %v", err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left behind %v, %v", entries, err)
	}
}
