// From where the boot loader jumps to (Multiboot 0.6.96, 3.2: 32-bit protected mode, no paging) to `main`, and the
// functions compiled Rust takes for granted.

.section .multiboot, "a"
.balign 4
header:
    .long 0x1badb002                    // magic
    .long 0x00010003                    // modules on pages, memory map, the addresses below are right
    .long -(0x1badb002 + 0x00010003)    // checksum
    .long header, __start, __load_end, __image_end, start

.section .boot, "ax"
.code32
.global start
start:
    cli
    cld
    mov esp, offset stack_top
    mov edi, eax                        // first argument: the loader's magic
    mov esi, ebx                        // second: where its information is

    // 4 GiB of identity mapping by 2 MiB pages, and a window to the memory above.
    mov eax, offset pdpt
    or eax, 3
    mov [pml4], eax
    mov eax, offset directories
    or eax, 3
    mov ecx, 0
0:  mov [pdpt + ecx * 8], eax
    add eax, 0x1000
    inc ecx
    cmp ecx, 5
    jne 0b
    mov eax, 0x83                       // present, writable, large
    mov ecx, 0
1:  mov [directories + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 1b

    mov eax, cr4
    or eax, 0x620                       // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, 0x100                       // LME
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3                 // not CD, NW, TS, EM
    or eax, 0x80010022                  // PG, WP, NE, MP
    mov cr0, eax
    lgdt [gdt_pointer]
    push 8                              // LLVM has no far jump in this syntax
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    fninit
    mov edi, edi
    mov esi, esi
    mov rsp, offset stack_top
    call main
2:  hlt
    jmp 2b

.balign 8
.global gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 8: code, 64-bit
    .quad 0x00cf93000000ffff            // 16: data
    .quad 0x00008b0000000067            // 24: a task state segment; VMX wants one, at address 0 and never used
    .quad 0
gdt_pointer:
    .word 39
    .long gdt
    .long 0

.section .text.memory, "ax"
.global memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret

.global memmove
memmove:
    mov rax, rdi
    mov rcx, rdx
    mov r8, rdi
    sub r8, rsi
    cmp r8, rdx                         // unsigned: the destination starts inside the source
    jb 3f
    rep movsb
    ret
3:  lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret

.global memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret

.global memcmp
.global bcmp
memcmp:
bcmp:
    xor eax, eax
    xor ecx, ecx
4:  cmp rcx, rdx
    je 5f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 4b
5:  ret

.global strlen
strlen:
    xor eax, eax
6:  cmp byte ptr [rdi + rax], 0
    je 7f
    inc rax
    jmp 6b
7:  ret

// The precompiled core refers to them; nothing unwinds.
.weak rust_eh_personality
.weak _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2

.section .bss
.balign 4096
pml4:
    .skip 0x1000
pdpt:
    .skip 0x1000
directories:
    .skip 0x4000
.global window_directory
window_directory:
    .skip 0x1000
    .skip 0x100000
stack_top:
