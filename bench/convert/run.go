package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// runner measures conversions beside their peers, in turn.
type runner struct {
	dir, tarbert, python string
	rounds               int
}

// job is one conversion: its source's kind, our format, and the peer's script.
type job struct {
	kind, to string
	args     []string
	peer     string // what torch.py is told; empty for none
}

func jobs() map[string]job {
	return map[string]job{
		"fp8-bf16":       {kind: "deepseek_v3", to: "bf16", peer: "fp8-bf16"},
		"fp8-int8":       {kind: "deepseek_v3", to: "w8a8-ascend", peer: "fp8-int8"},
		"bf16-int8":      {kind: "qwen3", to: "w8a8-ascend", args: []string{"--naming", "msmodelslim"}, peer: "bf16-int8"},
		"bf16-fp8":       {kind: "qwen3", to: "fp8-block"},
		"fp4-fp8":        {kind: "deepseek_v4", to: "fp8"},
		"fp4-bf16":       {kind: "deepseek_v4", to: "bf16"},
		"msmodelslim":    {kind: "qwen3", to: "w8a8-ascend", args: []string{"--naming", "msmodelslim"}, peer: "msmodelslim"},
		"llm-compressor": {kind: "qwen3", to: "w8a8-compressed", peer: "llm-compressor"},
	}
}

// took is one run of a command.
type took struct {
	seconds   float64
	processor float64 // seconds, of all threads
	peak      int64   // bytes of the largest process
}

// timed runs a command and what puts its output on disk.
func timed(name string, args ...string) (took, error) {
	c := exec.Command(name, args...)
	var text strings.Builder
	c.Stdout, c.Stderr = &text, &text
	c.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	before := time.Now()
	if err := c.Run(); err != nil {
		return took{}, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text.String()[max(0, text.Len()-2000):])
	}
	t := took{seconds: time.Since(before).Seconds()}
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.peak = u.Maxrss << 10
		t.processor = c.ProcessState.UserTime().Seconds() + c.ProcessState.SystemTime().Seconds()
	}
	return t, nil
}

// copied is cp of a directory, on disk at the end.
func copied(from, to string) (took, error) {
	return timed("sh", "-c", `cp -r "$0" "$1" && find "$1" -type f -exec sync {} +`, from, to)
}

func (r runner) job(name string) error {
	j, ok := jobs()[name]
	if !ok {
		return fmt.Errorf("no job %q", name)
	}
	src := filepath.Join(r.dir, j.kind)
	work, err := os.MkdirTemp(r.dir, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	at := func(name string) string { return filepath.Join(work, name) }
	var read, written, ours, theirs []took
	for round := range r.rounds {
		c, err1 := copied(src, at("read"))
		err1 = errors.Join(err1, os.RemoveAll(at("read")))
		o, err2 := timed(r.tarbert, append([]string{"convert", src, at("ours"), "--to", j.to}, j.args...)...)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		w, err1 := copied(at("ours"), at("written"))
		if err := errors.Join(err1, os.RemoveAll(at("written"))); err != nil {
			return err
		}
		read, written, ours = append(read, c), append(written, w), append(ours, o)
		fmt.Printf("%s, round %d: cp of what is read %.1f s, ours %.1f s (%.1f s of processor), cp of what is written %.1f s\n",
			name, round+1, c.seconds, o.seconds, o.processor, w.seconds)
		if r.python != "" && j.peer != "" {
			t, err := r.peer(j.peer, src, at("theirs"))
			if err == nil {
				err = sameTensors(at("theirs"), at("ours"), j.peer)
			}
			if err := errors.Join(err, os.RemoveAll(at("theirs"))); err != nil {
				return err
			}
			theirs = append(theirs, t)
			fmt.Printf("%s, round %d: peer %.1f s (%.1f s of processor), %d MiB\n", name, round+1, t.seconds, t.processor, t.peak>>20)
		}
		if err := os.RemoveAll(at("ours")); err != nil {
			return err
		}
	}
	r.print(name, read, written, ours, theirs)
	return nil
}

// peer runs the Python side of a job.
func (r runner) peer(name, src, dst string) (took, error) {
	here, err := filepath.Abs("convert")
	if err != nil {
		return took{}, err
	}
	if name == "msmodelslim" {
		return timed(filepath.Join(filepath.Dir(r.python), "msmodelslim"), "quant", "--model_type", "Qwen3-32B", "--model_path", src, "--save_path", dst,
			"--device", "cpu", "--config_path", filepath.Join(here, "w8a8.yaml"), "--trust_remote_code", "False")
	}
	return timed(r.python, filepath.Join(here, "peer.py"), name, src, dst)
}

func (r runner) print(name string, read, written, ours, theirs []took) {
	o, c := median(ours), median(read)+median(written)
	var ratios, peers, work []float64
	for i := range ours {
		ratios = append(ratios, ours[i].seconds/(read[i].seconds+written[i].seconds))
		if len(theirs) > i {
			peers = append(peers, theirs[i].seconds/ours[i].seconds)
			work = append(work, theirs[i].processor/ours[i].processor)
		}
	}
	fmt.Printf("| %s | %.1f s | %.1f + %.1f = %.1f s | %.2f (%s) | %.0f MiB |", name, o, median(read), median(written), c, middle(ratios), listed(ratios), peakOf(ours))
	if len(theirs) > 0 {
		fmt.Printf(" %.1f s | %.1f × (%s) | %.1f × | %.0f MiB |", median(theirs), middle(peers), listed(peers), middle(work), peakOf(theirs))
	}
	fmt.Println()
}

func median(all []took) float64 {
	var s []float64
	for _, t := range all {
		s = append(s, t.seconds)
	}
	return middle(s)
}

func middle(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return s[len(s)/2]
}

func listed(s []float64) string {
	var parts []string
	for _, x := range s {
		parts = append(parts, fmt.Sprintf("%.2f", x))
	}
	return strings.Join(parts, " ")
}

func peakOf(all []took) float64 {
	var most int64
	for _, t := range all {
		most = max(most, t.peak)
	}
	return float64(most) / (1 << 20)
}
