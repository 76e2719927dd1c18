package consultest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

var errExited = errors.New("consul ended while it was started")

// stopDeadline is how long a graceful exit may take before a SIGKILL.
const stopDeadline = 15 * time.Second

// process is a running program that cannot outlive the test.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the program has exited
}

// startProcess starts cmd and appends its output to log.
//
// Pdeathsig kills the program when the test binary dies, even from a timeout's panic,
// which runs no cleanup. The kernel sends the signal when the thread that forked exits,
// so startProcess keeps that thread until the program has exited.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open consul's log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer out.Close()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the log shows how the program exited, and a kill is not a failure
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start consul: %w", err)
	}
	return p, nil
}

// end signals the program and waits until it has exited.
func (p *process) end(sig os.Signal) {
	// Signal fails only if the program has exited already.
	_ = p.cmd.Process.Signal(sig)
	timer := time.NewTimer(stopDeadline)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// tail returns the end of the program's log.
func (p *process) tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	if len(content) > most {
		content = content[len(content)-most:]
	}
	return string(content)
}
