package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A root's versions and the verdicts are in the page; what is around them stays.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	status := ""
	for _, p := range []string{"docker.io 28.5.2+dfsg4-1", "containerd 2.1.9~ds1-1", "runc 1.3.6+ds1-2", "iptables 1.8.13-1", "docker-compose 1:2.40.3-1"} {
		name, version, _ := strings.Cut(p, " ")
		status += "Package: " + name + "\nStatus: install ok installed\nArchitecture: amd64\nVersion: " + version + "\nMaintainer: x\nDescription: x\n\n"
	}
	put("bin/root-sid-docker-28.5/var/lib/dpkg/status", status)
	page := put("page.md", "# Title\n\nbefore\n"+begin+"old\n"+end+"after\n")
	results := put("results.txt", "SOCKETPLANE_LAB_DOCKER=28.5\tx\tTestB\tpassed\nSOCKETPLANE_LAB_DOCKER=28.5\tx\tTestA\tpassed\n"+
		"SOCKETPLANE_LAB_DOCKER=28.5\tx\tTestC\tflaky\nSOCKETPLANE_LAB_DOCKER=28.5\tx\tTestD\tfailed\n\tx\tTestE\tpassed\nSIZE=xl\tx\tTestE\tpassed\n")
	if err := run(page, []string{results}, filepath.Join(dir, "bin"), "a day"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const want = "# Title\n\nbefore\n" + begin + `
Run on a day:

| program | from | with | tests |
|---|---|---|---|
| the machine's own | - | - | 1 passed |
| the machine's own, SIZE=xl | - | - | 1 passed |
| Docker 28.5.2 | Debian sid | containerd 2.1.9, runc 1.3.6, iptables 1.8.13, docker-compose 2.40.3 | 3 passed, 1 of them the second time, **1 failed** |

the machine's own; the machine's own, SIZE=xl:

- passed: ` + "`TestE`" + `

Docker 28.5.2:

- passed: ` + "`TestA`, `TestB`" + `
- passed the second time: ` + "`TestC`" + `
- failed: ` + "`TestD`" + `

` + end + "after\n"
	if string(got) != want {
		t.Errorf("the page is\n%s\nwant\n%s", got, want)
	}
	for name, text := range map[string]string{"other.txt": "x\n", "none.txt": "SOCKETPLANE_LAB_DOCKER=1.0\tx\tTestA\tpassed\n"} {
		if err := run(page, []string{put(name, text)}, filepath.Join(dir, "bin"), "a day"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := run(put("no.md", "nothing"), []string{results}, filepath.Join(dir, "bin"), "a day"); err == nil || !strings.Contains(err.Error(), "lacks the lines") {
		t.Errorf("a page without marks: %v", err)
	}
}
