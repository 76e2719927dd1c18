package ovs

import (
	"encoding/binary"
	"os"
	"slices"
	"syscall"
	"time"
)

// The datapaths that we use; see ovs-vswitchd.conf.db(5), column datapath_type.
const (
	DatapathSystem = "system" // the kernel's openvswitch module
	DatapathNetdev = "netdev" // userspace
)

// chooseDatapath returns DatapathSystem if both the switch and the kernel support it. The
// switch alone does not suffice: it lists the types that it was built with.
func chooseDatapath(offered []string, kernel func() bool) string {
	if slices.Contains(offered, DatapathSystem) && kernel() {
		return DatapathSystem
	}
	return DatapathNetdev
}

// kernelHasDatapath reports whether the openvswitch module is loaded or built in. If it
// is neither, the request for the generic netlink family makes the kernel load it, where
// modprobe works.
func kernelHasDatapath() bool {
	if _, err := os.Stat("/sys/module/openvswitch"); err == nil {
		return true
	}
	return genericFamilyExists("ovs_datapath") // linux/openvswitch.h, OVS_DATAPATH_FAMILY
}

// genericFamilyExists asks the generic netlink controller for a family
// (linux/genetlink.h: message type GENL_ID_CTRL, command CTRL_CMD_GETFAMILY, attribute
// CTRL_ATTR_FAMILY_NAME).
func genericFamilyExists(name string) bool {
	const (
		netlinkGeneric = 16
		genlIDCtrl     = 0x10
		getFamily      = 3
		attrFamilyName = 2
	)
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkGeneric)
	if err != nil {
		return false
	}
	defer func() { _ = syscall.Close(fd) }()
	timeout := syscall.NsecToTimeval((2 * time.Second).Nanoseconds())
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err != nil {
		return false
	}
	attr := append([]byte(name), 0)
	padded := (len(attr) + 3) &^ 3
	total := syscall.NLMSG_HDRLEN + 4 + 4 + padded // header, generic header, attribute header, name
	msg := make([]byte, total)
	e := binary.NativeEndian
	e.PutUint32(msg[0:], uint32(total))
	e.PutUint16(msg[4:], genlIDCtrl)
	e.PutUint16(msg[6:], syscall.NLM_F_REQUEST)
	msg[16], msg[17] = getFamily, 1
	e.PutUint16(msg[20:], uint16(4+len(attr)))
	e.PutUint16(msg[22:], attrFamilyName)
	copy(msg[24:], attr)
	if err := syscall.Sendto(fd, msg, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return false
	}
	reply := make([]byte, 8192)
	n, _, err := syscall.Recvfrom(fd, reply, 0)
	return err == nil && n >= syscall.NLMSG_HDRLEN && e.Uint16(reply[4:]) == genlIDCtrl // else NLMSG_ERROR
}
