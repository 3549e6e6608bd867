# What the rows share: tools, guest userland, machines to boot, checks. To be sourced.
#
# A row says what the guest runs (`guest <<'EOF' …`), boots it, and checks what came over the serial line. The guest
# prints results in sections (`section NAME command…`); `check "what" command…` there makes the row fail when the
# command does. `end_row` at the end: exit status 0 only if everything held.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
row=${ROW:-}$(basename "$0")
target=${CARGO_TARGET_DIR:-$here/target}
cache=$target/rig
work=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$cache"
failures=0

say() {
    printf '%s: %s\n' "$row" "$*"
}

# Host ------------------------------------------------------------------------------------------------------------

# Installs the package of a program, or of a file, if that is missing.
need() {
    command -v "$1" >/dev/null || [ -e "$1" ] && return
    say "installs $2"
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2" >/dev/null
}

# What apt is told: nothing, or where backports are, which the machine itself need not know.
apt=()
from_backports() {
    local state=$cache/backports release mirror
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $release" | sed -n 1p)
    mkdir -p "$state"/lists/partial "$state"/archives/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release-backports main" \
        >"$state/sources"
    apt=(-o "Dir::Etc::SourceList=$state/sources" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state")
    apt-get "${apt[@]}" update -qq
}

# Unpacks packages into a folder of the cache, without installing them.
unpack() {
    local folder=$cache/$1 package
    shift
    [ -e "$folder/.complete" ] && return
    rm -rf "$folder"
    mkdir -p "$folder"
    for package; do
        (cd "$folder" && { download "$package" || { apt-get "${apt[@]}" update -qq && download "$package"; }; } >/dev/null)
        dpkg-deb -x "$folder/$package"_*.deb "$folder"
        rm "$folder/$package"_*.deb
    done
    touch "$folder/.complete"
}

download() {
    apt-get "${apt[@]}" -o APT::Sandbox::User=root download -qq "$1"
}

# The package a metapackage of kernels stands for now.
kernel_package() {
    apt-cache "${apt[@]}" depends "$1" | awk '/Depends: linux-image-/ { print $2; exit }'
}

# The hypervisor.
build() {
    (cd "$here" && CARGO_TARGET_DIR=$target cargo build --release --quiet --locked)
    hypervisor=$target/release/thin-hypervisor
}

# Kernel and modules: `kernel linux-image-amd64`; from backports with KERNEL=backports.
kernel() {
    local package
    [ "${KERNEL:-}" != backports ] || from_backports
    package=$(kernel_package "$1")
    [ -n "$package" ] || { apt-get "${apt[@]}" update -qq; package=$(kernel_package "$1"); }
    unpack "$package" "$package"
    apt=()
    kernel=$(echo "$cache/$package"/boot/vmlinuz-*)
    version=${kernel##*/vmlinuz-}
    modules=$cache/$package/lib/modules/$version
    [ -e "$modules/modules.dep" ] || kmod_tool depmod -b "$cache/$package" "$version"
}

userland() {
    unpack userland busybox-static pciutils pci.ids kmod libc6 libpci3 zlib1g libkmod2 liblzma5 libzstd1 libssl3 libudev1
}

# A tool of package kmod, run from where it was unpacked.
kmod_tool() {
    local root=$cache/userland
    "$root/lib64/ld-linux-x86-64.so.2" --argv0 "$1" --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" \
        "$root/bin/kmod" "${@:2}"
}

# For a guest that starts Linux anew by itself: `kexec`, and the kernel.
kexec() {
    unpack kexec kexec-tools libxenmisc4.17 libxentoollog1 libxentoolcore1 libxencall1 libxenevtchn1 libxengnttab1 \
        libxenforeignmemory1 libxendevicemodel1
    kexec=$cache/kexec
}
kexec=

# Guest -----------------------------------------------------------------------------------------------------------

# The initramfs: userland, the named modules with what they need, and the row's script from standard input.
guest() {
    local root=$work/initramfs module files
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,usr/lib,usr/share/misc}
    ln -sfn lib "$root/usr/lib64"
    ln -sfn usr/lib "$root/lib"
    ln -sfn usr/lib "$root/lib64"
    ln -sfn bin "$root/sbin"
    cp "$cache/userland/bin/busybox" "$root/bin/"
    cp "$cache"/userland/usr/bin/{lspci,setpci} "$root/bin/"
    cp -L "$cache/userland/lib64/ld-linux-x86-64.so.2" "$root/usr/lib/"
    for file in libc libpci libz libkmod liblzma libzstd libcrypto libudev libresolv; do
        cp -L "$cache"/userland/{usr/,}lib/x86_64-linux-gnu/$file.so.* "$root/usr/lib/" 2>/dev/null || true
    done
    cp "$cache/userland/usr/share/misc/pci.ids" "$root/usr/share/misc/"
    mkdir -p "$root/lib/modules/$version"
    cp "$modules"/modules.{order,builtin*} "$root/lib/modules/$version/"
    for module; do
        files=$(grep -E "/${module//[-_]/[-_]}\.ko(\.xz)?:" "$modules/modules.dep") || { say "no module $module"; exit 1; }
        for file in ${files/:/}; do
            mkdir -p "$root/lib/modules/$version/$(dirname "$file")"
            cp "$modules/$file" "$root/lib/modules/$version/$file"
        done
    done
    kmod_tool depmod -b "$root" "$version"
    if [ -n "$kexec" ]; then
        cp "$kexec/sbin/kexec" "$root/bin/"
        cp -L "$kexec"/usr/lib/x86_64-linux-gnu/libxen*.so.* "$root/usr/lib/"
        cp "$kernel" "$root/kernel"
    fi
    cp "$here/tests/guest/init" "$root/init"
    cat >"$root/row"
    (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$work/initramfs.cpio"
    gzip -1 -f "$work/initramfs.cpio"
    initramfs=$work/initramfs.cpio.gz
}

# Boots the machine (arguments of QEMU) without the hypervisor, and with it and its command line. The serial line
# goes to $work/NAME.
command_line="console=ttyS0 quiet"
memory=1024
qemu=(qemu-system-x86_64)
# More of the machine, for rows that run other rows on other machines.
read -ra more <<<"${MACHINE:-}"
memory=${MEMORY:-$memory}
# What a reboot of the guest does: ends the run.
reboot=-no-reboot

boot_plain() {
    boot "$1" -kernel "$kernel" -initrd "$initramfs" -append "$command_line" "${@:2}"
}

boot_moved() {
    boot "$1" -kernel "$hypervisor" -append "$2" -initrd "$kernel ${command_line//,/,,},$initramfs" "${@:3}"
}

boot() {
    local log=$work/$1 started=$SECONDS
    shift
    need "${qemu[0]}" qemu-system-x86
    run "$log" "${qemu[@]}" -cpu EPYC -m "$memory" -nodefaults -display none -monitor none $reboot \
        -serial "file:$log.serial" "$@" "${more[@]}"
    look_at "$log" $((SECONDS - started))
}

# The QEMU of backports instead of the machine's, whose libraries it uses.
newer_qemu() {
    need qemu-system-x86_64 qemu-system-x86
    from_backports
    unpack qemu-backports qemu-system-x86 qemu-system-common qemu-system-data
    apt=()
    local root=$cache/qemu-backports/usr
    qemu=("$root/bin/qemu-system-x86_64" -L "$root/share/qemu" -L /usr/share/seabios -L /usr/lib/ipxe/qemu)
}

# Boots Bochs with VMX (arguments: the lines of its configuration that are the machine's) with GRUB, hypervisor, kernel.
boot_bochs() {
    local log=$work/$1 disc=$work/disc started=$SECONDS
    need bochs bochs
    # SeaBIOS satisfies the package of Bochs, which then lacks what its configuration names.
    need /usr/share/bochs/BIOS-bochs-latest bochsbios
    need /usr/share/vgabios/vgabios.bin vgabios
    need grub-mkrescue grub-common
    need xorriso xorriso
    need mformat mtools
    need /usr/lib/grub/i386-pc/multiboot.mod grub-pc-bin
    mkdir -p "$disc/boot/grub"
    cp "$hypervisor" "$disc/boot/hypervisor"
    cp "$kernel" "$disc/boot/kernel"
    gunzip -c "$initramfs" >"$disc/boot/initramfs"
    # GRUB leaves out the file's name, which QEMU puts in front of each command line.
    cat >"$disc/boot/grub/grub.cfg" <<EOF
multiboot /boot/hypervisor /boot/hypervisor $2
module /boot/kernel /boot/kernel $command_line
module /boot/initramfs /boot/initramfs
boot
EOF
    grub-mkrescue -d /usr/lib/grub/i386-pc -o "$work/disc.iso" "$disc" --locales= --fonts= --themes= \
        --install-modules="normal multiboot iso9660 biosdisk part_msdos" >/dev/null 2>&1
    {
        cat <<EOF
display_library: rfb, options="timeout=0"
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_haswell_4770, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=$memory, host=$memory
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$log.serial
log: $log.bochs
sound: driver=dummy
speaker: enabled=1, mode=system
EOF
        printf '%s\n' "${@:3}"
    } >"$work/bochsrc"
    # Debian's Bochs has the debugger built in; it wants to be told to start.
    echo c >"$work/start"
    run "$log" env -C "$work" bochs -q -f "$work/bochsrc" -rc "$work/start"
    look_at "$log" $((SECONDS - started))
}

# Runs a machine that writes to LOG.serial, until it ends, the hypervisor stops, or it takes too long.
run() {
    local log=$1 until=$((SECONDS + ${limit:-240})) machine
    shift
    : >"$log.serial"
    "$@" </dev/null >"$log.errors" 2>&1 &
    machine=$!
    servers+=($machine)
    while kill -0 "$machine" 2>/dev/null; do
        if [ "$SECONDS" -gt "$until" ] || grep -qs 'hypervisor: stopped' "$log.serial"; then
            kill "$machine"
        fi
        sleep 0.3
    done
    wait "$machine" 2>/dev/null || true
    tr -d '\r' <"$log.serial" >"$log"
}

look_at() {
    say "$(basename "$1"): ran for $2 s"
    cp "$1" "$cache/$row-$(basename "$1").log"
    if ! grep -q '^guest: end$' "$1"; then
        tail -n 30 "$1"
        tail -n 5 "$1.errors"
        fail "$(basename "$1"): the guest did not come to its end"
    fi
    if grep '^guest: failed' "$1"; then
        fail "$(basename "$1"): a check in the guest"
    fi
}

# Checks ----------------------------------------------------------------------------------------------------------

fail() {
    say "FAILED: $*"
    failures=$((failures + 1))
}

# What the guest printed in a section: `section LOG NAME`.
section() {
    sed -n "/^>>> $2\$/,/^<<< $2\$/p" "$work/$1" | sed '1d;$d'
}

# The section is exactly this text (standard input).
section_is() {
    local expected
    expected=$(cat)
    if [ "$(section "$1" "$2")" = "$expected" ]; then
        say "$1: $2 as expected"
    else
        diff <(echo "$expected") <(section "$1" "$2") || true
        fail "$1: $2"
    fi
}

is_equal() {
    if [ "$1" = "$2" ]; then say "$3 as expected"; else fail "$3: $1 instead of $2"; fi
}

# The tree has these lines, in this order, in its drawing.
branches() {
    local log=$1 tree line rest
    shift
    tree=$(section "$log" tree)
    rest=$tree$'\n'
    for line; do
        if [[ $rest != *[-+\\]"$line"$'\n'* && $rest != *"$line"$'\n'* ]]; then
            echo "$tree"
            fail "$log: the tree has no \"$line\""
            return
        fi
        rest=${rest#*"$line"}
    done
    say "$log: tree as expected"
}

# No kernel messages of level warning and above about PCI.
no_warnings() {
    section_is "$1" warnings </dev/null
}

# Kernel messages of level warning and above about PCI that the plain machine does not have.
no_new_warnings() {
    local new
    new=$(comm -13 <(section "$1" warnings | sort -u) <(section "$2" warnings | sort -u))
    if [ -n "$new" ]; then
        echo "$new"
        fail "$2: new kernel warnings"
    else
        say "$2: no new kernel warnings"
    fi
}

# What the guest finds on the host (10.0.2.2): http://10.0.2.2:$download/file has as many random bytes as asked for, of
# md5 $sum; what is sent to port $upload is kept in $work/received.
serve() {
    mkdir "$work/www"
    head -c "$1" /dev/urandom >"$work/www/file"
    sum=$(md5sum <"$work/www/file" | cut -d' ' -f1)
    download=$(free_port)
    "$cache/userland/bin/busybox" httpd -f -p "127.0.0.1:$download" -h "$work/www" &
    servers+=($!)
    upload=$(free_port)
    # At the end of its input it would hang up.
    mkfifo "$work/silence"
    sleep 1000 >"$work/silence" &
    servers+=($!)
    "$cache/userland/bin/busybox" nc -l -p "$upload" >"$work/received" <"$work/silence" &
    servers+=($!)
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 20000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

end_row() {
    if [ "$failures" = 0 ]; then
        say "holds"
    else
        say "does not hold: $failures failures"
        exit 1
    fi
}

need cpio cpio
userland
build
