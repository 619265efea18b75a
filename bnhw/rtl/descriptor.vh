// The fields of a descriptor word, each `offset +: width`: `descriptor[`MAIN]`. Sizes are stored less 1 where it says so;
// numbers are unsigned but the 34-bit ones, which are two's complement. `bnhw.rtl.image` reads this table.
`ifndef DESCRIPTOR_VH
`define DESCRIPTOR_VH
`define DESCRIPTOR_BITS 1024
`define MAIN 0 +: 2                 // 0 CONVOLVE, 1 SUM, 2 MAXIMUM, 3 MULTIPLY
`define POST 2 +: 2                 // 0 NONE, 1 ARITHMETIC, 2 THRESHOLD, 3 LOOKUP
`define LAST_STEP 4 +: 1            // the program ends behind this step
`define ADD 5 +: 1                  // an operand is added behind the post stage
`define OPERAND 6 +: 1              // an operand is read: with ADD, and in MULTIPLY
`define MAIN_MEMORY 7 +: 1          // 0 activation memory, 1 residual memory
`define OPERAND_MEMORY 8 +: 1
`define WRITE_MEMORY 9 +: 1
`define BIPOLAR 10 +: 1             // codes are bipolar: x is twice the stored bit (but on xnor)
`define PADDING_ZERO 11 +: 1        // a padded tap adds 0 (xnor, bipolar)
`define BLOCK_TABLE 12 +: 1         // one entry word a block follows this word
`define CLASSES 13 +: 1             // constants differ by the pixel's position class
`define LOOKUP_CHANNELS 14 +: 1     // one lookup table a channel
`define STEP_WORDS 15 +: 16         // words of this step in the descriptor memory
`define OUT_ROWS 31 +: 16           // rows of the result - 1
`define OUT_COLUMNS 47 +: 16        // columns - 1
`define BLOCKS 63 +: 16             // blocks - 1
`define IN_ROWS 79 +: 16            // rows of the tensor read
`define IN_COLUMNS 95 +: 16         // columns
`define ROW_FIRST 111 +: 17         // image row of the first tap, two's complement: - padding
`define COLUMN_FIRST 128 +: 17      // image column of the first tap
`define STRIDE_ROWS 145 +: 16
`define STRIDE_COLUMNS 161 +: 16
`define KERNEL_ROWS 177 +: 16       // rows of the window - 1
`define KERNEL_COLUMNS 193 +: 16    // columns - 1
`define PHASES 209 +: 1             // phases - 1
`define WORDS 210 +: 16             // words of a block - 1 (0 for lanes), where there is no block table
`define PLANES 226 +: 6             // planes - 1
`define READ_BASE 232 +: 24         // address of tap (0, 0) of the first pixel; all addresses count modulo 2^24
`define ROW_STEP 256 +: 24          // words from one row of the tensor to the next
`define COLUMN_STEP 280 +: 24       // words from one pixel to the next
`define OUT_ROW_STEP 304 +: 24      // the same for one stride
`define OUT_COLUMN_STEP 328 +: 24
`define LAST_WORD 352 +: 16         // CONVOLVE: words of the tensor - 1; others: its blocks - 1
`define LAST_LANES 368 +: 16        // channels in the last word, or in the last block
`define SOURCE_BEFORE 384 +: 16     // blocks of the result in front of the tensor's first block
`define READ_OFFSET 400 +: 34       // what is subtracted from a stored number to get the value
`define PADDING_CODE 434 +: 32      // the stored number of padding
`define OPERAND_BASE 466 +: 24
`define OPERAND_STEP 490 +: 24      // words from one pixel to the next, 0 where one number a channel serves all pixels
`define OPERAND_PLANES 514 +: 6     // planes - 1
`define OPERAND_OFFSET 520 +: 34
`define WEIGHT_BASE 554 +: 24
`define CONSTANT_BASE 578 +: 24     // of constants, thresholds or lookup table
`define CONSTANT_STEP 602 +: 24     // from one block to the next
`define CLASS_BASE 626 +: 24        // one word a pixel
`define CLASS_STEP 650 +: 24        // from one class to the next
`define POST_CYCLES 674 +: 16       // cycles of the post unit - 1
`define LOOKUP_SHIFT 690 +: 5       // logarithm of the entries of one channel
`define LOW 695 +: 34               // ARITHMETIC: lowest result; THRESHOLD: result where no level agrees
`define HIGH 729 +: 34
`define ADD_LOW 763 +: 34           // lowest result of the addition
`define ADD_HIGH 797 +: 34
`define MINIMUM 831 +: 16           // least cycles of an interval - 1
`define WRITE_BASE 847 +: 24
`define WRITE_STEP 871 +: 24        // words from one pixel to the next
`define WRITE_BANK 895 +: 16        // bank of the first block
`define WRITE_PLANES 911 +: 6       // planes - 1
`define WRITE_OFFSET 917 +: 34      // what is subtracted from a result to get the stored number
`define WRITE_LANES 951 +: 16       // channels in the last block of the result
// A word of the block table, in place of the fields above.
`define ENTRY_WORDS 0 +: 16         // words of the block - 1
`define ENTRY_FIRST_WORD 16 +: 16   // the first of them
`define ENTRY_OFFSET 32 +: 24       // the same in addresses: first word * planes
`endif
