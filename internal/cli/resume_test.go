package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/release"
)

// small is the example with everything cut down: a release of seconds.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join("..", "..", "examples", "sums")
	if err := os.CopyFS(filepath.Join(dir, "model"), os.DirFS(filepath.Join(root, "model"))); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "data"), os.DirFS(filepath.Join(root, "data"))); err != nil {
		t.Fatal(err)
	}
	heldOut, err := os.ReadFile(filepath.Join(dir, "data", "held-out.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(heldOut, []byte("\n"))
	if err := os.WriteFile(filepath.Join(dir, "data", "held-out.jsonl"), bytes.Join(lines[:24], nil), 0o644); err != nil {
		t.Fatal(err)
	}
	spec, err := os.ReadFile(filepath.Join(root, "release.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(spec)
	for _, change := range [][2]string{
		{"resamples: 1000", "resamples: 100"}, {"twin_steps: 30", "twin_steps: 3"},
		{"every: 50", "every: 10"}, {"steps: 400", "steps: 40"}, {"batch: 64", "batch: 16"},
		{"warmup: 30", "warmup: 5"}, {"steps: 30", "steps: 3"}, {"warmup: 10", "warmup: 1"}, {"prompts: 32", "prompts: 6"}, {"samples: 8", "samples: 4"},
		{"count: 200", "count: 20"}, {"addr: 127.0.0.1:8000", "addr: 127.0.0.1:0"},
		// A model of 40 steps is a poor one: what is tested here is the way through.
		{"non_inferiority: 0.05", "non_inferiority: 1"}, {"ratio: 15 ", "ratio: 500 "}, {"typical: 1.5 ", "typical: 500 "}, {"kl: 0.005 ", "kl: 1 "}, {"top1: 0.97 ", "top1: 0.5 "},
		// A clause that matches the pool that trains, and is waived: the certificate has it.
		{"vendors: [nvidia]", "vendors: [cpu]"}, {"sites: [state]", "sites: []"}, {"until: 2030-01-01", "until: 2999-01-01"}, {"until: 2027-12-31", "until: 2999-12-31"},
		{"delta_nll: 0.01 ", "delta_nll: 0.2 "},
	} {
		if !strings.Contains(text, change[0]) {
			t.Fatalf("examples/sums/release.yaml no longer has %q", change[0])
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	if err := os.WriteFile(filepath.Join(dir, "release.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs the program as a process of its own; lines of its standard error come over the channel.
func start(t *testing.T, args ...string) (*exec.Cmd, <-chan string, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 4096)
	go func() {
		defer close(lines)
		s := bufio.NewScanner(stderr)
		for s.Scan() {
			lines <- s.Text()
		}
		io.Copy(io.Discard, stderr)
	}()
	return cmd, lines, &out
}

// finish waits for the program and returns everything it wrote to standard error.
func finish(cmd *exec.Cmd, lines <-chan string) (string, int) {
	var all strings.Builder
	for l := range lines {
		all.WriteString(l + "\n")
	}
	err := cmd.Wait()
	if err == nil {
		return all.String(), 0
	}
	return all.String(), cmd.ProcessState.ExitCode()
}

func showRelease(t *testing.T, home string) release.Shown {
	t.Helper()
	cmd, lines, out := start(t, "--home", home, "--json", "release", "show", "sums-1")
	stderr, code := finish(cmd, lines)
	if code != 0 {
		t.Fatalf("release show: exit code %d\n%s", code, stderr)
	}
	var s release.Shown
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("release show --json: %v\n%s", err, out)
	}
	return s
}

// killTasks kills every process that the executor's tasks have.
func killTasks(t *testing.T, home string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		args, err := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
		if err != nil || pid == os.Getpid() || !bytes.Contains(args, []byte(home)) {
			continue
		}
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Kill the release in every stage, once with everything it started and once
// alone; run the same command again each time. What passed is reused, and the
// model that comes out is the one of an undisturbed run.
func TestResumeAfterKillInEveryStage(t *testing.T) {
	if testing.Short() {
		t.Skip("runs two whole releases")
	}
	spec := small(t)
	undisturbed := filepath.Join(t.TempDir(), "home")
	cmd, lines, out := start(t, "--home", undisturbed, "release", "run", spec)
	if stderr, code := finish(cmd, lines); code != 0 {
		t.Fatalf("the undisturbed release: exit code %d\n%s\n%s", code, stderr, out)
	}
	want := showRelease(t, undisturbed)

	home := filepath.Join(t.TempDir(), "home")
	killed := 0
	for i, stage := range release.StageNames() {
		cmd, lines, _ := start(t, "--home", home, "release", "run", spec)
		if waitFor(lines, stage) {
			if stage == "train" {
				waitForSteps(t, home)
			}
			cmd.Process.Kill()
			killed++
		}
		finish(cmd, lines)
		if i%2 == 0 {
			killTasks(t, home)
		}
	}
	if killed < 6 {
		t.Errorf("only %d stages lasted long enough to be killed in", killed)
	}
	cmd, lines, out = start(t, "--home", home, "release", "run", spec)
	stderr, code := finish(cmd, lines)
	if code != 0 {
		t.Fatalf("the resumed release: exit code %d\n%s\n%s", code, stderr, out)
	}
	if n := strings.Count(stderr, "reused"); n < 5 {
		t.Errorf("%d stages were reused, want those that had passed\n%s", n, stderr)
	}
	got := showRelease(t, home)
	if !got.Released {
		t.Error("the resumed release is not released")
	}
	if diff := cmp.Diff(models(want), models(got)); diff != "" {
		t.Errorf("models of the undisturbed and the resumed release differ (-undisturbed +resumed)\n%s", diff)
	}
	checkCertificate(t, home, got)
	checkRepair(t, home, spec, got)
	checkUp(t, home, spec)
}

// checkRepair damages what a stage left: that stage is not reused, and makes it again.
func checkRepair(t *testing.T, home, spec string, want release.Shown) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(home, "releases", "*", "convert-*", "w8a8-ascend", "*.safetensors"))
	if err != nil || len(files) != 1 {
		t.Fatalf("released weights: %v, %v", files, err)
	}
	flip(t, files[0])
	cmd, lines, out := start(t, "--home", home, "release", "run", spec)
	stderr, code := finish(cmd, lines)
	if code != 0 {
		t.Fatalf("after one bit of the released weights changed: exit code %d\n%s\n%s", code, stderr, out)
	}
	for stage, reused := range map[string]bool{"train": true, "convert": false, "verify": true} {
		if got := !strings.Contains(stderr, "\n"+stage+strings.Repeat(" ", 9-len(stage))+" …"); got != reused {
			t.Errorf("stage %s reused: %v, want %v\n%s", stage, got, reused, stderr)
		}
	}
	if diff := cmp.Diff(models(want), models(showRelease(t, home))); diff != "" {
		t.Errorf("models after the repair (-before +after)\n%s", diff)
	}
}

// checkUp keeps the released model up, asks it, and interrupts.
func checkUp(t *testing.T, home, spec string) {
	t.Helper()
	cmd, lines, _ := start(t, "--home", home, "release", "run", "--up", spec)
	url := ""
	for l := range lines {
		if _, rest, found := strings.Cut(l, "serving sums at "); found {
			url, _, _ = strings.Cut(rest, " ")
			break
		}
	}
	if url == "" {
		t.Fatal("--up never says where it serves")
	}
	body := strings.NewReader(`{"model":"sums","prompt":"12+34=","max_tokens":4}`)
	resp, err := http.Post(url+"/completions", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the endpoint answers %s", resp.Status)
	}
	cmd.Process.Signal(os.Interrupt)
	if stderr, code := finish(cmd, lines); code != 0 {
		t.Errorf("interrupted --up: exit code %d\n%s", code, stderr)
	}
	if _, err := http.Get(url + "/models"); err == nil {
		t.Error("the endpoint outlives the command")
	}
}

// waitFor reads lines until the stage has begun; false if the program ended before.
func waitFor(lines <-chan string, stage string) bool {
	for l := range lines {
		if strings.HasPrefix(l, stage+" ") && strings.Contains(l, "…") {
			return true
		}
	}
	return false
}

// waitForSteps returns when the trainer has taken a few more steps than it had.
func waitForSteps(t *testing.T, home string) {
	t.Helper()
	count := func() int {
		n := 0
		files, _ := filepath.Glob(filepath.Join(home, "releases", "*", "train-*", "attempts", "*.jsonl"))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			n += bytes.Count(b, []byte(`"event":"step"`))
		}
		return n
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for first := count(); count() < first+12; {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("the trainer takes no steps")
		}
	}
}

func models(s release.Shown) map[string]string {
	m := map[string]string{}
	for _, x := range s.Models {
		if strings.HasSuffix(x.Name, "checkpoint") {
			continue // names who wrote it and when it was resumed, in state.json
		}
		m[x.Name] = x.Digest
	}
	return m
}

func checkCertificate(t *testing.T, home string, s release.Shown) {
	t.Helper()
	path := filepath.Join(home, s.Certificate)
	cmd, lines, out := start(t, "certificate", "check", path)
	if stderr, code := finish(cmd, lines); code != 0 || !strings.Contains(out.String(), "VALID") {
		t.Fatalf("certificate check: exit code %d\n%s\n%s", code, stderr, out)
	}
	if !strings.Contains(out.String(), "waived by the director until 2999-12-31: until the domestic pool is qualified") {
		t.Errorf("the certificate does not name the waiver that was used\n%s", out)
	}
	for _, st := range s.Stages {
		if st.Stage == "serve" {
			continue // comes after the certificate
		}
		for _, b := range st.Bound {
			path := filepath.Join(home, filepath.FromSlash(b.Path))
			if info, err := os.Stat(path); err != nil {
				t.Fatal(err)
			} else if info.IsDir() {
				files, _ := filepath.Glob(filepath.Join(path, "*"))
				path = files[len(files)/2]
			}
			flip(t, path)
			cmd, lines, out := start(t, "certificate", "check", filepath.Join(home, s.Certificate))
			stderr, code := finish(cmd, lines)
			if code != exitGate || !strings.Contains(out.String(), "VOID") {
				t.Errorf("one bit of %s changed: exit code %d\n%s%s", b.Path, code, stderr, out)
			}
			flip(t, path)
		}
	}
}

// flip changes one bit in the middle of a file; twice is no change.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
