package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// spareEnv makes this program the caller of TestDownSparesItsCaller.
const spareEnv = "LAB_TEST_SPARE_NAMESPACE"

func init() { runtime.LockOSThread() } // TestMain runs on the first thread

func TestMain(m *testing.M) {
	if path := os.Getenv(spareEnv); path != "" {
		os.Exit(listFrom(path))
	}
	os.Exit(m.Run())
}

// listFrom takes the first thread into a namespace and prints itself and what
// Down would kill from there.
func listFrom(path string) int {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, unix.CLONE_NEWNET)
	}
	var pids []int
	if err == nil {
		pids, err = ours()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(os.Getpid(), pids)
	return 0
}

// Promise: Down kills what is in the lab's namespaces, but not the program that
// calls it, whose first thread may have been left in one.
func TestDownSparesItsCaller(t *testing.T) {
	lab := "t" + strconv.Itoa(os.Getpid()%1e6)
	name := "splab" + lab + "-h1"
	t.Setenv(InstanceEnv, lab)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("this test needs root and iproute2: ip %v: %v: %s", args, err, out)
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() { ip("netns", "delete", name) })

	other := exec.Command("ip", "netns", "exec", name, "cat")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), other.Wait() })
	// cat answers: ip has gone to the namespace and become it.
	if _, err := fmt.Fprintln(in, "there"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}

	caller := exec.Command(os.Args[0])
	caller.Env = append(os.Environ(), spareEnv+"=/run/netns/"+name)
	answer, err := caller.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	words := strings.FieldsFunc(string(answer), func(r rune) bool { return strings.ContainsRune(" []\n", r) })
	self, listed := words[0], words[1:]
	if slices.Contains(listed, self) {
		t.Errorf("Down would kill its caller %s: %v", self, listed)
	}
	if !slices.Contains(listed, strconv.Itoa(other.Process.Pid)) {
		t.Errorf("Down would leave %d in the lab: it lists %v", other.Process.Pid, listed)
	}
}
