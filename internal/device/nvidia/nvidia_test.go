package nvidia

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/device"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replay answers the two queries; an empty recovery is an old driver's refusal.
func replay(t testing.TB, query, recovery string) device.Run {
	return func(_ context.Context, name string, args ...string) ([]byte, error) {
		if name != "nvidia-smi" || len(args) != 2 || args[1] != "--format=csv" {
			t.Errorf("ran %s %v", name, args)
		}
		if strings.Contains(args[0], recoveryField) {
			if recovery == "" {
				return []byte(`Field "gpu_recovery_action" is not a valid field to query.`), errors.New("exit status 2")
			}
			return fixture(t, recovery), nil
		}
		return fixture(t, query), nil
	}
}

func line(d device.Device) string {
	return fmt.Sprintf("%s|%s|%d|%d|%s|%s|%s", d.ID, d.Model, d.Index, d.Memory>>20, d.Health, d.Detail, strings.Join(d.Features, ","))
}

func TestDetect(t *testing.T) {
	const h100 = "float32,sm_90,fp16,int8,bf16,fp8"
	const l4 = "float32,sm_89,fp16,int8,bf16,fp8"
	tests := []struct {
		name, query, recovery string
		count                 int
		some                  map[int]string
	}{
		{"healthy", "query_gpu_h100_8x_healthy.csv", "", 8, map[int]string{
			0: "GPU-a0000000-0000-4000-8000-000000000001|NVIDIA H100 80GB HBM3|0|81559|healthy||" + h100,
			7: "GPU-a0000007-0000-4000-8000-000000000008|NVIDIA H100 80GB HBM3|7|81559|healthy||" + h100,
		}},
		{"uncorrected errors", "query_gpu_h100_8x_one_uncorrectable_SYNTHETIC.csv", "", 8, map[int]string{
			4: "GPU-a0000004-0000-4000-8000-000000000005|NVIDIA H100 80GB HBM3|4|81559|healthy||" + h100,
			5: "GPU-a0000005-0000-4000-8000-000000000006|NVIDIA H100 80GB HBM3|5|81559|unhealthy|3 uncorrected ECC errors since the driver was loaded|" + h100,
		}},
		{"lost, unknown, not supported", "query_gpu_lost_SYNTHETIC.csv", "", 4, map[int]string{
			0: "GPU-a0000000-0000-4000-8000-000000000001|NVIDIA L4|0|23034|healthy||" + l4,
			1: "00000000:2A:00.0||1|0|unhealthy|GPU is lost|",
			2: "GPU-a0000002-0000-4000-8000-000000000003|NVIDIA L4|2|23034|unknown|power.draw: [Unknown Error]|" + l4,
			3: "GPU-a0000003-0000-4000-8000-000000000004|NVIDIA L4|3|23034|healthy||" + l4 + ",mig",
		}},
		{"stuck after a past fault", "query_gpu_lost_SYNTHETIC.csv", "recovery_action_SYNTHETIC.csv", 4, map[int]string{
			0: "GPU-a0000000-0000-4000-8000-000000000001|NVIDIA L4|0|23034|healthy||" + l4,
			3: "GPU-a0000003-0000-4000-8000-000000000004|NVIDIA L4|3|23034|unhealthy|recovery action: Reset|" + l4 + ",mig",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := New(replay(t, tt.query, tt.recovery)).Detect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.count {
				t.Fatalf("%d devices, want %d", len(got), tt.count)
			}
			for i, want := range tt.some {
				if d := cmp.Diff(want, line(got[i])); d != "" {
					t.Errorf("device %d\n%s", i, d)
				}
			}
		})
	}
}

func TestColumnsAreFoundByName(t *testing.T) {
	out := "name, memory.total [MiB], uuid, index, compute_cap\nNVIDIA A10, 23028 MiB, GPU-1, 0, 8.6\n"
	gpus, err := parse([]byte(out))
	if err != nil || len(gpus) != 1 {
		t.Fatal(gpus, err)
	}
	if g := gpus[0]; g.id() != "GPU-1" || g.bytes("memory.total") != 23028<<20 || g.text("name") != "NVIDIA A10" {
		t.Errorf("gpu %+v", g.values)
	}
}

func TestSample(t *testing.T) {
	d := New(replay(t, "query_gpu_lost_SYNTHETIC.csv", ""))
	at := time.Unix(100, 0)
	d.Now = func() time.Time { return at }
	got, err := d.Sample(t.Context(), []string{"GPU-a0000003-0000-4000-8000-000000000004", "GPU-none", "00000000:2A:00.0"})
	if err != nil {
		t.Fatal(err)
	}
	used, busy, temp := int64(6<<20), 0.12, 33.0
	want := []device.Sample{
		{ID: "GPU-a0000003-0000-4000-8000-000000000004", At: at, Health: device.Healthy, MemoryUsed: &used, Utilization: &busy, Temperature: &temp},
		{ID: "GPU-none", At: at, Health: device.Unknown, Detail: "nvidia-smi does not list it"},
		{ID: "00000000:2A:00.0", At: at, Health: device.Unhealthy, Detail: "GPU is lost"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTroubleIsNotAFailedDevice(t *testing.T) {
	tests := []struct {
		name   string
		out    []byte
		err    error
		absent bool
		want   string
	}{
		{"not installed", nil, &exec.Error{Name: "nvidia-smi", Err: exec.ErrNotFound}, true, "nvidia-smi not found in PATH"},
		{"no driver", fixture(t, "no_driver.txt"), errors.New("exit status 9"), false, "no driver answers"},
		{"no driver, exit code 0", fixture(t, "no_driver.txt"), nil, false, "no driver answers"},
		{"other failure", []byte("Segmentation fault"), errors.New("exit status 139"), false, "Segmentation fault"},
		{"unknown header", []byte("a, b\n1, 2\n"), nil, false, "unknown header"},
		{"torn row", []byte("index, uuid\n0, GPU-1\n1\n"), nil, false, "a row has 1 columns of 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := New(func(context.Context, string, ...string) ([]byte, error) { return tt.out, tt.err })
			got, err := d.Detect(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Detect = %v, %v; want an error with %q", got, err, tt.want)
			}
			if errors.Is(err, device.ErrAbsent) != tt.absent {
				t.Errorf("%v: absent = %v", err, !tt.absent)
			}
		})
	}
	none := New(func(context.Context, string, ...string) ([]byte, error) {
		return []byte("No devices were found\n"), errors.New("exit status 6")
	})
	if got, err := none.Detect(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("no devices: %v, %v; want none and no error", got, err)
	}
}

func TestHungToolIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := New(func(context.Context, string, ...string) ([]byte, error) { <-release; return nil, nil })
		_, err := d.Sample(t.Context(), []string{"GPU-1"})
		if err == nil || errors.Is(err, device.ErrAbsent) || !strings.Contains(err.Error(), "did not answer within 15s") {
			t.Errorf("err = %v", err)
		}
		close(release)
	})
}

func TestEnv(t *testing.T) {
	got := New(nil).Env([]device.Device{{ID: "GPU-1", Index: 0}, {ID: "00000000:2A:00.0", Index: 5}})
	if d := cmp.Diff([]string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=GPU-1,5"}, got); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	names, err := filepath.Glob("testdata/*.[ct]*")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, n := range names {
		f.Add(fixture(f, filepath.Base(n)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		gpus, err := parse(b)
		if err != nil && gpus != nil {
			t.Error("rows beside an error")
		}
		for _, g := range gpus {
			g.judge()
			if g.bytes("memory.total") < 0 || g.health == "" || g.id() == "" {
				t.Errorf("row %+v", g)
			}
			g.features()
		}
	})
}
