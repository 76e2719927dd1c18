//go:build long

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// node is a virtual machine. Its disk is the image's; what it writes is gone with it.
type node struct {
	site    *site
	n       int
	name    string
	address string
	qemu    *exec.Cmd
	done    chan struct{} // closed when qemu has ended
}

// boot starts the n-th VM as a cloud does: with user-data and the like on a
// configuration drive.
func (s *site) boot(n int) *node {
	s.t.Helper()
	v := &node{site: s, n: n, name: fmt.Sprintf("node-%d", n), address: fmt.Sprintf("10.0.0.%d", 10+n), done: make(chan struct{})}
	drive := s.configDrive(v)
	tap := fmt.Sprintf("tap%d", n)
	s.inside("ip", "tuntap", "add", tap, "mode", "tap")
	s.inside("ip", "link", "set", tap, "mtu", fmt.Sprint(underlayMTU), "master", "cloud0", "up")
	v.qemu = s.command(context.Background(), "qemu-system-x86_64", "-nodefaults", "-display", "none",
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024",
		"-smbios", "type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova",
		"-kernel", s.image+"/vmlinuz", "-initrd", s.image+"/initrd.img", "-append", "root=/dev/vda ro console=ttyS0",
		"-serial", "file:"+v.console(), "-device", "virtio-rng-pci",
		"-drive", "if=virtio,format=raw,snapshot=on,file="+s.image+"/disk.img",
		"-drive", "if=virtio,format=raw,readonly=on,file="+drive,
		"-netdev", "tap,id=net0,script=no,downscript=no,ifname="+tap, "-device", "virtio-net-pci,netdev=net0,mac="+v.mac())
	v.qemu.Env = append(os.Environ(), "TMPDIR="+s.dir) // what the VM writes to its disk
	v.qemu.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	v.qemu.Stdout, v.qemu.Stderr = &said, &said
	if err := v.qemu.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		_ = v.qemu.Wait() // alive() tells
		close(v.done)
	}()
	s.t.Cleanup(func() {
		_ = v.qemu.Process.Kill()
		<-v.done
		if said.Len() > 0 {
			s.t.Logf("%s: qemu said: %s", v.name, said.String())
		}
	})
	s.nodes = append(s.nodes, v)
	return v
}

func (v *node) console() string { return filepath.Join(v.site.dir, v.name+".console") }
func (v *node) mac() string     { return fmt.Sprintf("fa:16:3e:00:00:%02x", 10+v.n) }

// configDrive makes the ISO 9660 image with the files of OpenStack's
// configuration drive (docs.openstack.org/nova, "Config drives").
func (s *site) configDrive(v *node) string {
	s.t.Helper()
	key, err := os.ReadFile(s.dir + "/key.pub")
	if err != nil {
		s.t.Fatal(err)
	}
	example := "join.yaml"
	if v.n == 1 {
		example = "bootstrap.yaml"
	}
	userData, err := os.ReadFile(examples + example)
	if err != nil {
		s.t.Fatal(err)
	}
	type object = map[string]any
	for name, content := range map[string]any{
		// An example, filled in as docs/cloud-init.md says.
		"user_data": strings.NewReplacer("${TOKEN}", s.token, "${FIRST}", first).Replace(string(userData)),
		"meta_data.json": object{
			"uuid": fmt.Sprintf("1f3e0c4a-0000-4000-8000-%012d", v.n), "name": v.name, "hostname": v.name + ".novalocal",
			"availability_zone": "nova", "launch_index": 0, "public_keys": object{"test": strings.TrimSpace(string(key))},
		},
		"network_data.json": object{
			"links": []object{{"id": "tap0", "type": "ovs", "mtu": underlayMTU, "ethernet_mac_address": v.mac()}},
			"networks": []object{{
				"id": "network0", "link": "tap0", "type": "ipv4", "ip_address": v.address, "netmask": "255.255.255.0",
				"routes": []object{{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": gateway}},
			}},
			"services": []object{},
		},
		// What the cloud's operator adds: here the way to the release, and who vouches for it.
		"vendor_data.json": object{"cloud-init": s.vendorData()},
	} {
		text, ok := content.(string)
		if !ok {
			b, err := json.Marshal(content)
			if err != nil {
				s.t.Fatal(err)
			}
			text = string(b)
		}
		dir := filepath.Join(s.dir, v.name, "openstack", "latest")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	iso := filepath.Join(s.dir, v.name+".iso")
	if _, err := run(exec.Command("genisoimage", "-quiet", "-V", "config-2", "-J", "-R", "-o", iso, filepath.Join(s.dir, v.name))); err != nil {
		s.t.Fatal(err)
	}
	return iso
}

// alive says whether the VM still runs.
func (v *node) alive() error {
	select {
	case <-v.done:
		return errors.New("qemu has ended")
	default:
		return nil
	}
}

// finished waits until cloud-init has said on the console that it is at its end.
func (v *node) finished(limit time.Duration) {
	v.site.t.Helper()
	v.site.until(limit, v.name+": cloud-init", func() error {
		if err := v.alive(); err != nil {
			return err
		}
		said, err := os.ReadFile(v.console())
		if err == nil && !bytes.Contains(said, []byte(" finished at ")) {
			err = errors.New("it has not finished")
		}
		return err
	})
}

// try runs a shell script as root on the node, and gives what it printed.
func (v *node) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(v.site.ctx, 2*time.Minute)
	defer cancel()
	cmd := v.site.command(ctx, "ssh", "-i", v.site.dir+"/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "debian@"+v.address, "sudo", "sh", "-es")
	cmd.Stdin = strings.NewReader(script)
	out, err := run(cmd)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", v.name, script, err)
	}
	return out, err
}

// sh is try for what has to succeed.
func (v *node) sh(script string) string {
	v.site.t.Helper()
	out, err := v.try(script)
	if err != nil {
		v.site.t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// diagnose shows what is known when the test has failed.
func (s *site) diagnose() {
	if !s.t.Failed() {
		return
	}
	for _, v := range s.nodes {
		said, err := os.ReadFile(v.console())
		lines := strings.Split(string(said), "\n")
		s.t.Logf("%s: console: %v\n%s", v.name, err, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		out, err := v.try("set +e; cloud-init status --long; tail -n 40 /var/log/cloud-init-output.log; grep -E 'WARN|ERR|Traceback' /var/log/cloud-init.log; " +
			"ip -br address; ip route; systemctl --failed --no-legend; socketplane agent status; journalctl --no-pager -n 60 -u socketplane -u ovs-vswitchd -u docker; ovs-vsctl show; dmesg | tail -n 20")
		s.t.Logf("%s: %v\n%s", v.name, err, out)
	}
}
