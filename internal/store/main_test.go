package store

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the second process of the tests below: with
// STORE_TEST_ROLE set it plays that role and exits.
func TestMain(m *testing.M) {
	if role := os.Getenv("STORE_TEST_ROLE"); role != "" {
		if err := play(role, os.Getenv("STORE_TEST_HOME")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func play(role, home string) error {
	ctx := context.Background()
	role, arg, _ := strings.Cut(role, ":")
	switch role {
	case "append": // n records, one line of progress each
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		s, err := Open(ctx, home)
		if err != nil {
			return err
		}
		for i := range n {
			r, err := s.Append(ctx, Record{Release: "sums-1", Stage: "train", Event: "note", At: time.Unix(int64(i), 0), Data: payload(os.Getpid(), i)})
			if err != nil {
				return err
			}
			fmt.Println(r.Seq)
		}
		return s.Close()
	case "lock": // hold a lock until killed
		s, err := Open(ctx, home)
		if err != nil {
			return err
		}
		if _, err := s.Lock(ctx, arg); err != nil {
			return err
		}
		fmt.Println("held")
		select {}
	case "open-unprivileged":
		if err := syscall.Setuid(65534); err != nil {
			return err
		}
		_, err := Open(ctx, home)
		return err
	case "put-limited": // a file size limit stands in for a full disk
		s, err := Open(ctx, home)
		if err != nil {
			return err
		}
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: 4096}); err != nil {
			return err
		}
		_, err = s.PutFile(ctx, arg)
		return err
	case "put-forever":
		s, err := Open(ctx, home)
		if err != nil {
			return err
		}
		_, err = s.put(ctx, slowZeros{}, "zeros")
		return err
	}
	return fmt.Errorf("no role %q", role)
}

func payload(pid, i int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"pid":%d,"i":%d,"fill":%q}`, pid, i, strings.Repeat("x", 300)))
}

// slowZeros never ends; its first read says that the temp file is open.
type slowZeros struct{}

func (slowZeros) Read(p []byte) (int, error) {
	fmt.Println("writing")
	clear(p)
	return len(p), nil
}

// helper is this binary in a role.
func helper(t *testing.T, home, role string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "STORE_TEST_ROLE="+role, "STORE_TEST_HOME="+home)
	return cmd
}
