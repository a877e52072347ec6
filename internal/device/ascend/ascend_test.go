package ascend

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

// replay answers `npu-smi info` and `npu-smi info -m` from fixtures.
func replay(t testing.TB, info, chipMap string) device.Run {
	return func(_ context.Context, name string, args ...string) ([]byte, error) {
		if name != "npu-smi" {
			t.Errorf("ran %s", name)
		}
		switch strings.Join(args, " ") {
		case "info":
			return fixture(t, info), nil
		case "info -m":
			if chipMap == "" {
				return nil, errors.New("not supported")
			}
			return fixture(t, chipMap), nil
		}
		t.Errorf("ran %s %v", name, args)
		return nil, errors.New("not recorded")
	}
}

const mib = 1 << 20

// line is what matters of a device, in one line.
func line(d device.Device) string {
	return fmt.Sprintf("%s %s index=%d %dMiB %s %q %s", d.ID, d.Model, d.Index, d.Memory/mib, d.Health, d.Detail, strings.Join(d.Features, ","))
}

func TestDetect(t *testing.T) {
	const a2 = "bf16,float32,fp16,int8"
	tests := []struct {
		info, chipMap string
		count         int
		some          map[int]string
	}{
		{"a2_910b3_8x_healthy_idle.txt", "", 8, map[int]string{
			0: `npu0-chip0 910B3 index=0 65536MiB healthy "OK" ` + a2,
			7: `npu7-chip0 910B3 index=7 65536MiB healthy "OK" ` + a2,
		}},
		{"a2_910b3_unhealthy_SYNTHETIC.txt", "", 8, map[int]string{
			2: `npu2-chip0 910B3 index=2 65536MiB unhealthy "Alarm" ` + a2,
			4: `npu4-chip0 910B3 index=4 65536MiB healthy "Warning" ` + a2,
			6: `npu6-chip0 910B3 index=6 65536MiB unhealthy "Critical" ` + a2,
			7: `npu7-chip0 910B3 index=7 65536MiB unknown "UNKNOWN" ` + a2,
		}},
		{"a2_910b4_container_blank_process_name.txt", "info_m_legacy.txt", 4, map[int]string{
			1: `npu1-chip0 910B4 index=1 32768MiB healthy "OK" ` + a2,
		}},
		{"a3_ascend910_16die_healthy_idle.txt", "", 16, map[int]string{
			0:  `npu0-chip0 Ascend910 index=0 65536MiB healthy "OK" ` + a2,
			1:  `npu0-chip1 Ascend910 index=1 65536MiB healthy "OK" ` + a2,
			15: `npu7-chip1 Ascend910 index=15 65536MiB healthy "OK" ` + a2,
		}},
		{"a3_ascend910_unhealthy_SYNTHETIC.txt", "", 16, map[int]string{
			7:  `npu3-chip1 Ascend910 index=7 65536MiB unhealthy "Alarm" ` + a2,
			10: `npu5-chip0 Ascend910 index=10 65536MiB unhealthy "Critical" ` + a2,
		}},
		{"a3_ascend910_26.0.rc_wide.txt", "", 16, map[int]string{
			0: `npu0-chip0 Ascend910 index=0 65536MiB healthy "OK" ` + a2,
		}},
		{"310p3_duo_2card_healthy.txt", "", 4, map[int]string{
			0: `npu2-chip0 310P3 index=0 44280MiB healthy "OK" fp16,int8`,
			3: `npu4-chip1 310P3 index=3 43693MiB healthy "OK" fp16,int8`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.info, func(t *testing.T) {
			got, err := New(replay(t, tt.info, tt.chipMap)).Detect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.count {
				t.Fatalf("%d devices, want %d", len(got), tt.count)
			}
			ids := map[string]bool{}
			for _, d := range got {
				ids[d.ID] = true
			}
			if len(ids) != tt.count {
				t.Errorf("%d different ids, want %d", len(ids), tt.count)
			}
			for i, want := range tt.some {
				if d := cmp.Diff(want, line(got[i])); d != "" {
					t.Errorf("device %d\n%s", i, d)
				}
			}
		})
	}
}

func TestSampleReadsFiguresThatRanTogether(t *testing.T) {
	d := New(replay(t, "a3_ascend910_26.0.rc_wide.txt", ""))
	at := time.Unix(100, 0)
	d.Now = func() time.Time { return at }
	got, err := d.Sample(t.Context(), []string{"npu0-chip1", "npu99-chip0", "npu0-chip0"})
	if err != nil {
		t.Fatal(err)
	}
	used, busy, hot, cool, power := int64(31877*mib), 0.41, 37.0, 36.0, 171.5
	want := []device.Sample{
		{ID: "npu0-chip1", At: at, Health: device.Healthy, Detail: "OK", MemoryUsed: &used, Utilization: &busy, Temperature: &hot},
		{ID: "npu99-chip0", At: at, Health: device.Unknown, Detail: "npu-smi does not list it"},
		{ID: "npu0-chip0", At: at, Health: device.Healthy, Detail: "OK", MemoryUsed: &used, Utilization: &busy, Temperature: &cool, Power: &power},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLogicIDComesFromTheChipMap(t *testing.T) {
	chips := []chip{{npu: 4, index: 4}, {npu: 6, index: 6}}
	takeLogicIDs(chips, []chip{{npu: 4, index: 0}, {npu: 6, index: 1}})
	if chips[0].index != 0 || chips[1].index != 1 {
		t.Errorf("indices %d, %d; want the logic ids 0, 1", chips[0].index, chips[1].index)
	}
}

func TestParseMap(t *testing.T) {
	legacy, err := parseMap(fixture(t, "info_m_legacy.txt"))
	if err != nil || len(legacy) != 2 || legacy[1].id() != "npu1-chip0" || legacy[1].index != 1 || legacy[1].name != "Ascend 910B3" {
		t.Errorf("legacy map: %+v, %v; want two chips without the Mcu rows", legacy, err)
	}
	for _, bad := range []string{"", "NPU ID   Chip ID\n0  0\n", "NPU ID    Chip ID    Chip Logic ID    Chip Name\n0   0\n", "NPU ID    Chip ID    Chip Logic ID    Chip Name\nx   0   0   910B\n"} {
		if got, err := parseMap([]byte(bad)); err == nil && len(got) > 0 {
			t.Errorf("parseMap(%q) = %+v", bad, got)
		}
	}
}

// The 950's own table is not known: its chips come from the map, with unknown health.
func Test950IsListedWithUnknownHealth(t *testing.T) {
	run := func(_ context.Context, _ string, args ...string) ([]byte, error) {
		if len(args) == 1 {
			return []byte("+---+\n| npu-smi 26.1 |\n+---+\n| Something | New |\n| Entirely | New |\n"), nil
		}
		return fixture(t, "info_m_950.txt"), nil
	}
	got, err := New(run).Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[1].Health != device.Unknown || got[1].Model != "Ascend950PR" || got[1].Index != 1 || got[1].Memory != 0 {
		t.Errorf("devices %+v", got)
	}
}

func TestUnknownHeaderIsRefusedWithItsText(t *testing.T) {
	table := strings.Replace(string(fixture(t, "a2_910b3_8x_healthy_idle.txt")), "HBM-Usage(MB)", "HBM-Usage(GB)", 1)
	run := func(_ context.Context, _ string, args ...string) ([]byte, error) {
		if len(args) == 1 {
			return []byte(table), nil
		}
		return fixture(t, "info_m_legacy.txt"), nil
	}
	got, err := New(run).Detect(t.Context())
	if !errors.Is(err, errLayout) || !strings.Contains(err.Error(), "HBM-Usage(GB)") {
		t.Errorf("Detect = %v, %v; want a refusal with the raw header", got, err)
	}
}

func TestTroubleIsNotAFailedDevice(t *testing.T) {
	notFound := &exec.Error{Name: "npu-smi", Err: exec.ErrNotFound}
	answer := func(name string, err error) device.Run {
		return func(context.Context, string, ...string) ([]byte, error) {
			if name == "" {
				return nil, err
			}
			return fixture(t, name), err
		}
	}
	tests := []struct {
		name   string
		run    device.Run
		absent bool
		want   string
	}{
		{"not installed", answer("", notFound), true, "npu-smi not found in PATH"},
		{"-8005", answer("container_dcmi_8005.txt", errors.New("exit status 1")), false, "occupied by another container or not mounted"},
		{"-8005 with exit code 0", answer("container_dcmi_8005.txt", nil), false, "occupied by another container or not mounted"},
		{"-8020", answer("device_used_by_other_container.txt", errors.New("exit status 1")), false, "occupied by another container"},
		{"other failure", answer("info_m_950.txt", errors.New("exit status 9")), false, "exit status 9"},
		{"nothing", answer("", nil), false, "no table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := New(tt.run).Detect(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Detect = %v, %v; want an error with %q", got, err, tt.want)
			}
			if errors.Is(err, device.ErrAbsent) != tt.absent {
				t.Errorf("%v: absent = %v, want %v", err, !tt.absent, tt.absent)
			}
		})
	}
}

// A tool that never answers, and does not even die, is given up after the
// probe's own deadline.
func TestHungToolIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := New(func(context.Context, string, ...string) ([]byte, error) { <-release; return nil, nil })
		began := time.Now()
		_, err := d.Detect(t.Context())
		if err == nil || errors.Is(err, device.ErrAbsent) || !strings.Contains(err.Error(), "did not answer within 30s") {
			t.Errorf("err = %v", err)
		}
		if took := time.Since(began); took != d.Timeout {
			t.Errorf("gave up after %v, want %v", took, d.Timeout)
		}
		close(release)
	})
}

func TestEnv(t *testing.T) {
	got := New(nil).Env([]device.Device{{Index: 3}, {Index: 12}})
	if d := cmp.Diff([]string{"ASCEND_RT_VISIBLE_DEVICES=3,12"}, got); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, n := range names {
		f.Add(fixture(f, filepath.Base(n)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parseInfo(b)
		if err != nil && info != nil {
			t.Error("chips beside an error")
		}
		listed, err := parseMap(b)
		if err != nil && listed != nil {
			t.Error("chips beside an error")
		}
		for _, c := range append(info, listed...) {
			if c.npu < 0 || c.chip < 0 || c.index < 0 || c.total < 0 || c.used < 0 {
				t.Errorf("negative figure in %+v", c)
			}
		}
	})
}
